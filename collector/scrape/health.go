package scrape

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// serveHealth serves the pages about health, and no others, on a listener that
// --web.config.file does not apply to: a probe has neither a password nor a client
// certificate, and must not fail for a limit on requests. It serves until ctx ends.
// What comes out of served is why it ended before.
func serveHealth(ctx context.Context, pages http.Handler, address string, logger *slog.Logger) (served <-chan error, err error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/-/healthy", pages)
	mux.Handle("/-/ready", pages)
	// Its clients do not scrape.
	server := NewServer(mux, NewScrapers(time.Now))
	server.ErrorLog = slog.NewLogLogger(logger.Handler(), slog.LevelWarn)
	context.AfterFunc(ctx, func() { _ = server.Close() }) // nothing is left to do about it
	logger.Info("serving health checks", "address", listener.Addr().String())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	return ended, nil
}
