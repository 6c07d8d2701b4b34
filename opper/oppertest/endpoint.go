package oppertest

import "slices"

// Endpoint is what a request is for. What takes endpoints means TraceEndpoint if it
// is given none.
type Endpoint int

// The endpoints.
const (
	TraceEndpoint  Endpoint = iota // a list of traces, or one of them
	UsageEndpoint                  // GET /v2/analytics/usage
	BudgetEndpoint                 // GET /v3/me
	endpoints
)

func orTraces(of []Endpoint) []Endpoint {
	if len(of) == 0 {
		return []Endpoint{TraceEndpoint}
	}
	return of
}

// OnRequest sets a function that is called before each request of the endpoints is
// answered, without any lock: it may change the list. nil removes it.
func (s *Server) OnRequest(hook func(Request), of ...Endpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, endpoint := range orTraces(of) {
		s.hooks[endpoint] = hook
	}
}

// Requests returns all requests of the endpoints since New or ResetRequests; none if
// the server does not record.
func (s *Server) Requests(of ...Endpoint) []Request {
	of = orTraces(of)
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Request, 0, len(s.requests))
	for _, r := range s.requests {
		if slices.Contains(of, r.Endpoint) {
			all = append(all, *r)
		}
	}
	return all
}

// RequestCount is the number of requests of the endpoints since New or
// ResetRequests.
func (s *Server) RequestCount(of ...Endpoint) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, endpoint := range orTraces(of) {
		n += s.counts[endpoint]
	}
	return n
}

// ResetRequests forgets the requests so far, of all endpoints.
func (s *Server) ResetRequests() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests, s.counts = nil, [endpoints]int{}
}
