{{- define "opper-exporter.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The controller adds 11 characters to the name of a StatefulSet, in a label of 63. */}}
{{- define "opper-exporter.fullname" -}}
{{- $name := include "opper-exporter.name" . }}
{{- if .Values.fullnameOverride }}
{{- $name = .Values.fullnameOverride }}
{{- else if not (contains $name .Release.Name) }}
{{- $name = printf "%s-%s" .Release.Name $name }}
{{- else }}
{{- $name = .Release.Name }}
{{- end }}
{{- $name | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "opper-exporter.selector" -}}
app.kubernetes.io/name: {{ include "opper-exporter.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "opper-exporter.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "opper-exporter.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "opper-exporter.metadata" -}}
name: {{ include "opper-exporter.fullname" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "opper-exporter.labels" . | nindent 2 }}
{{- end }}

{{/* Not empty with many projects. */}}
{{- define "opper-exporter.many" -}}
{{- if or .Values.projects.existingSecret .Values.projects.config }}true{{ end }}
{{- end }}

{{/* The Secret with the keys, if there is one. */}}
{{- define "opper-exporter.secret" -}}
{{- if include "opper-exporter.many" . }}
{{- .Values.projects.existingSecret }}
{{- else }}
{{- default (include "opper-exporter.fullname" .) .Values.opper.existingSecret }}
{{- end }}
{{- end }}

{{- define "opper-exporter.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "opper-exporter.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "opper-exporter.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* Flags as a list. Numbers arrive as floats, of which large ones would be 1e+06. */}}
{{- define "opper-exporter.flags" -}}
{{- range $name, $value := .Values.flags }}
{{- if kindIs "bool" $value }}
- {{ printf "--%s%s" (ternary "" "no-" $value) $name | quote }}
{{- else if kindIs "slice" $value }}
{{- range $value }}
- {{ printf "--%s=%s" $name . | quote }}
{{- end }}
{{- else if kindIs "float64" $value }}
- {{ printf "--%s=%s" $name (eq (floor $value) $value | ternary (int64 $value | toString) (toString $value)) | quote }}
{{- else }}
- {{ printf "--%s=%v" $name $value | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- define "opper-exporter.webSecret" -}}
{{- if .Values.webConfig.content }}
{{- include "opper-exporter.fullname" . }}-web
{{- else }}
{{- .Values.webConfig.existingSecret }}
{{- end }}
{{- end }}

{{/* The names of the thresholds in a file of rules, as JSON: those that are a default,
which have no labels, and all. */}}
{{- define "opper-exporter.thresholds" -}}
{{- $defaults := list }}
{{- $all := list }}
{{- range (fromYaml .).groups }}
{{- range .rules }}
{{- if .record }}
{{- $labels := keys (default dict .labels) }}
{{- $all = append $all (dict "record" .record "labels" $labels) }}
{{- if not $labels }}
{{- $defaults = append $defaults .record }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- dict "defaults" $defaults "all" $all | toJson }}
{{- end }}
