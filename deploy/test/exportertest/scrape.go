package exportertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// get returns a response with status 200, in the protobuf format if there is one:
// it alone has native histograms.
func get(ctx context.Context, client *http.Client, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", string(expfmt.NewFormat(expfmt.TypeProtoDelim)))
	req.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", "10")
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCut, err)
	}
	if resp.StatusCode != http.StatusOK {
		defer func() { _ = resp.Body.Close() }() // the status says it
		body, _ := io.ReadAll(resp.Body)
		return nil, fmt.Errorf("%s: %s: %s", url, resp.Status, body)
	}
	return resp, nil
}

// decode yields the families of an exposition, up to the first error.
func decode(header http.Header, body io.Reader) iter.Seq2[*dto.MetricFamily, error] {
	decoder := expfmt.NewDecoder(body, expfmt.ResponseFormat(header))
	return func(yield func(*dto.MetricFamily, error) bool) {
		for {
			family := new(dto.MetricFamily)
			err := decoder.Decode(family)
			if errors.Is(err, io.EOF) || !yield(family, err) || err != nil {
				return
			}
		}
	}
}

// Families returns the families that the exporter at an address exposes, by name.
func Families(ctx context.Context, address string) (map[string]*dto.MetricFamily, error) {
	resp, err := get(ctx, http.DefaultClient, "http://"+address+"/metrics")
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	families := map[string]*dto.MetricFamily{}
	for family, err := range decode(resp.Header, resp.Body) {
		if err != nil {
			return nil, err
		}
		families[family.GetName()] = family
	}
	return families, nil
}
