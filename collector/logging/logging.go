// Package logging makes the loggers of the program.
package logging

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	slgk "github.com/tjhop/slog-gokit"
)

// New returns a logger that writes lines of at least a level to w, as json or logfmt,
// and one for packages that want a logger of the standard library.
func New(w io.Writer, minimum, format string) (log.Logger, *slog.Logger) {
	w = log.NewSyncWriter(w)
	logger := log.NewLogfmtLogger(w)
	if format == "json" {
		logger = log.NewJSONLogger(w)
	}
	now := log.TimestampFormat(func() time.Time { return time.Now().UTC() }, "2006-01-02T15:04:05.000Z07:00")
	lines := log.LoggerFunc(func(keyvals ...any) error { return logger.Log(append([]any{"ts", now()}, keyvals...)...) })
	base := level.NewFilter(lines, level.Allow(level.ParseDefault(minimum, level.InfoValue())))
	// The bridge adds the caller itself.
	return log.With(base, "caller", log.DefaultCaller), slog.New(untimed{slgk.NewGoKitHandler(base, slog.LevelDebug)})
}

// untimed leaves the time of a line to the logger behind it.
type untimed struct{ slog.Handler }

// Handle implements slog.Handler.
func (h untimed) Handle(ctx context.Context, r slog.Record) error {
	r.Time = time.Time{}
	return h.Handler.Handle(ctx, r)
}
