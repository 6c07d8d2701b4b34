{{/* Refuses what contradicts itself, which no schema can see. */}}
{{- define "opper-exporter.validate" -}}
{{- if include "opper-exporter.many" . }}
{{- if or .Values.opper.apiKey .Values.opper.existingSecret (ne .Values.opper.project "default") }}
{{- fail "set opper.apiKey, opper.existingSecret and opper.project for one project, or projects for many, not both" }}
{{- end }}
{{- else if and (not .Values.opper.apiKey) (not .Values.opper.existingSecret) }}
{{- fail "set opper.apiKey, or opper.existingSecret to the name of a Secret that holds the key, or projects.existingSecret to that of one with the keys of many projects" }}
{{- end }}
{{- if regexMatch "^v?[0-9]+([.][0-9]+)*([-+].*)?$" .Values.image.tag }}
{{- $tag := regexFind "[0-9]+([.][0-9]+)*" .Values.image.tag }}
{{- if not (hasPrefix (printf "%s." $tag) (printf "%s." (regexFind "^[0-9.]+" $.Chart.AppVersion))) }}
{{- fail (printf "image.tag is %s, but flags, rules and dashboards of this chart are those of %s: use the chart of that release, or leave image.tag empty" $.Values.image.tag $.Chart.AppVersion) }}
{{- end }}
{{- end }}
{{- with .Values.webConfig }}
{{- if and .content .existingSecret }}
{{- fail "set webConfig.content or webConfig.existingSecret, not both" }}
{{- end }}
{{- if and .certificateSecret (not .content) (not .existingSecret) }}
{{- fail "webConfig.certificateSecret needs webConfig.content or webConfig.existingSecret, which names the files" }}
{{- end }}
{{- if $.Values.serviceMonitor.enabled }}
{{- if and .content.tls_server_config (not $.Values.serviceMonitor.tlsConfig) }}
{{- fail "webConfig.content has tls_server_config: set serviceMonitor.tlsConfig too, such as {insecureSkipVerify: true}" }}
{{- end }}
{{- if and .content.basic_auth_users (not $.Values.serviceMonitor.basicAuth) }}
{{- fail "webConfig.content has basic_auth_users: set serviceMonitor.basicAuth too" }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.serviceMonitor.targetPerProject (not .Values.serviceMonitor.enabled) }}
{{- fail "serviceMonitor.targetPerProject needs serviceMonitor.enabled: without it, nothing is scraped" }}
{{- end }}
{{- with .Values.prometheusRule }}
{{- if and .enabled .thresholds }}
{{- $want := include "opper-exporter.thresholds" ($.Files.Get "files/rules/opper_thresholds.yml") | fromJson }}
{{- $got := include "opper-exporter.thresholds" .thresholds | fromJson }}
{{- $rules := $.Files.Get "files/rules/opper_rules.yml" }}
{{- range $got.all }}
{{- $record := .record }}
{{- if not (has $record $want.defaults) }}
{{- fail (printf "prometheusRule.thresholds has %s, which is no threshold of this release" $record) }}
{{- end }}
{{- range .labels }}
{{- if not (has . (list "project" "trace_name")) }}
{{- fail (printf "prometheusRule.thresholds has %s with the label %s: expected project, trace_name or none" $record .) }}
{{- end }}
{{- if and (eq . "trace_name") (contains (printf "record: project:%s\n" ($record | replace "opper:threshold:" "opper_threshold:")) $rules) }}
{{- fail (printf "prometheusRule.thresholds has %s with the label trace_name: it is of whole projects" $record) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $want.defaults }}
{{- if not (has . $got.defaults) }}
{{- fail (printf "prometheusRule.thresholds lacks %s without labels, which the alerts of this release compare with" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
