package promtest

import (
	"context"
	"net/url"
	"time"

	"github.com/prometheus/common/model"
)

// Samples returns the raw samples of the last so many seconds of the series that
// a selector selects, as the server keeps them.
func (s *Server) Samples(ctx context.Context, selector string, last time.Duration) (model.Matrix, error) {
	var m model.Matrix
	err := s.query(ctx, "query", model.ValMatrix, &m, url.Values{
		"query": {selector + "[" + model.Duration(last).String() + "]"},
		"time":  {unix(time.Now())},
	})
	return m, err
}
