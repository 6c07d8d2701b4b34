package config

import (
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	promconfig "github.com/prometheus/common/config"
	"go.yaml.in/yaml/v2"

	"opper_exporter/opper"
)

// httpClient is what a file in the HTTP client format of Prometheus sets.
type httpClient struct {
	Header    http.Header
	Transport opper.Transport
}

// loadHTTPClient reads a file in the HTTP client format of Prometheus: TLS, proxy
// and headers. Paths in it are relative to it. Certificates are read again when
// they change, headers are not. A file that sets no proxy leaves the choice to
// the environment. An error is one line that names the file and the field, and
// quotes no value.
func loadHTTPClient(path string) (httpClient, error) {
	content, err := readConfigFile(path)
	client := httpClient{}
	if err == nil {
		client, err = parseHTTPClient(content, path)
	}
	if err != nil {
		return httpClient{}, fmt.Errorf("%s: %w", path, unnamed(err))
	}
	return client, nil
}

// unnamed returns an error without the path of the file, which is named already.
func unnamed(err error) error {
	if failed, ok := err.(*os.PathError); ok { //nolint:errorlint // further in, the path is that of another file
		return failed.Err
	}
	return err
}

// parseHTTPClient reads what the file at a path says about the HTTP client.
func parseHTTPClient(content []byte, path string) (httpClient, error) {
	var set map[string]any
	if err := yaml.Unmarshal(content, &set); err != nil {
		return httpClient{}, privateYAMLError(err)
	}
	if err := checkHTTPFields(set); err != nil {
		return httpClient{}, err
	}
	file, err := promconfig.LoadHTTPConfig(string(content))
	if err != nil {
		return httpClient{}, privateYAMLError(err)
	}
	file.SetDirectory(filepath.Dir(path))

	client := httpClient{Transport: opper.Transport{
		ID:                 fmt.Sprintf("%x", sha256.Sum256([]byte(filepath.Dir(path)+"\n"+string(content)))),
		ProxyConnectHeader: file.GetProxyConnectHeader(),
		DisableHTTP2:       len(set) > 0 && !file.EnableHTTP2,
	}}
	if set["proxy_url"] != nil || set["proxy_from_environment"] != nil {
		client.Transport.Proxy = noProxy
		if proxy := file.Proxy(); proxy != nil {
			client.Transport.Proxy = proxy
		}
	}
	if client.Transport.Build, err = transportBuilder(&file.TLSConfig); err != nil {
		return httpClient{}, fmt.Errorf("tls_config: %w", err)
	}
	if client.Header, err = httpHeader(file.HTTPHeaders); err != nil {
		return httpClient{}, fmt.Errorf("http_headers: %w", err)
	}
	return client, nil
}

func noProxy(*http.Request) (*url.URL, error) { return nil, nil }

// checkHTTPFields refuses what the client does not leave to such a file.
func checkHTTPFields(set map[string]any) error {
	for _, field := range []string{"authorization", "basic_auth", "bearer_token", "bearer_token_file", "oauth2"} {
		if _, ok := set[field]; ok {
			return fmt.Errorf("%s: not supported, as the API key authenticates each request", field)
		}
	}
	if set["follow_redirects"] == true {
		return errors.New("follow_redirects: not supported, as a redirect would pass the API key on")
	}
	if tlsConfig, ok := set["tls_config"].(map[any]any); ok {
		for _, field := range []string{"ca_ref", "cert_ref", "key_ref"} {
			if _, ok := tlsConfig[field]; ok {
				return fmt.Errorf("tls_config: %s: not supported, as there is no secret manager", field)
			}
		}
	}
	return nil
}

// transportBuilder checks a TLS configuration and returns what builds a
// transport with it, and another one when its files change.
func transportBuilder(file *promconfig.TLSConfig) (func(func(*tls.Config) (http.RoundTripper, error)) (http.RoundTripper, error), error) {
	config, err := promconfig.NewTLSConfig(file)
	if err != nil {
		return nil, err
	}
	settings := promconfig.TLSRoundTripperSettings{
		CA:   tlsSecret(file.CA, file.CAFile),
		Cert: tlsSecret(file.Cert, file.CertFile),
		Key:  tlsSecret(string(file.Key), file.KeyFile),
	}
	return func(newTransport func(*tls.Config) (http.RoundTripper, error)) (http.RoundTripper, error) {
		return promconfig.NewTLSRoundTripper(config, settings, newTransport)
	}, nil
}

func tlsSecret(text, file string) promconfig.SecretReader {
	switch {
	case file != "":
		return promconfig.NewFileSecret(file)
	case text != "":
		return promconfig.NewInlineSecret(text)
	}
	return nil
}

func httpHeader(file *promconfig.Headers) (http.Header, error) {
	if file == nil {
		return nil, nil
	}
	header := http.Header{}
	for _, name := range slices.Sorted(maps.Keys(file.Headers)) {
		from := file.Headers[name]
		for _, value := range from.Values {
			header.Add(name, value)
		}
		for _, value := range from.Secrets {
			header.Add(name, string(value))
		}
		for _, path := range from.Files {
			value, err := readConfigFile(path)
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", name, path, err)
			}
			header.Add(name, strings.TrimSpace(string(value)))
		}
	}
	return header, nil
}

// quoted is a value that the YAML parser repeats in its errors.
var quoted = regexp.MustCompile("(?s) ?`.*?`")

// privateYAMLError makes one line without values of an error in the file.
func privateYAMLError(err error) error {
	if _, ok := errors.AsType[*url.Error](err); ok {
		return errors.New("proxy_url: not a valid URL")
	}
	text := err.Error()
	if failed, ok := errors.AsType[*yaml.TypeError](err); ok {
		text = strings.Join(failed.Errors, "; ")
	}
	if strings.HasPrefix(text, "unknown TLS version") {
		text = "tls_config: " + text
	}
	return errors.New(strings.Join(strings.Fields(quoted.ReplaceAllString(text, "")), " "))
}
