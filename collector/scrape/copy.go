package scrape

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

const (
	copyPath = "/-/snapshot"
	// copyPart is how many bytes of a copy a client has to take within each
	// timeout.
	copyPart = 1 << 20
)

// copyHandler answers with a copy of the state: that needs neither a shell
// beside the exporter nor a second place to write. The copy is complete before it
// is sent, so a slow client delays no commit; it holds up only other copies, as
// there is one at a time.
func copyHandler(copyState CopyState, timeout time.Duration, logger log.Logger) http.Handler {
	if copyState == nil {
		return refuse("There is no state: --storage.path is empty.", http.StatusNotFound)
	}
	send := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		file, err := copyState()
		if err != nil {
			level.Error(logger).Log("msg", "state copy failed", "err", err)
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer file.Close() //nolint:errcheck // it was only read
		sent, err := sendFile(w, file, timeout)
		if err != nil {
			level.Warn(logger).Log("msg", "state copy aborted", "client", r.RemoteAddr, "bytes", sent, "err", err)
			return
		}
		level.Info(logger).Log("msg", "state copy sent", "client", r.RemoteAddr, "bytes", sent)
	})
	// The one before may have been read, and not be over yet: it is waited for.
	return make(slots, 1).limit(send, refuse("Another copy of the state is on its way, try again later.", http.StatusConflict))
}

// sendFile sends a file, and gives up when the client does not take a part of it
// within the timeout.
func sendFile(w http.ResponseWriter, file *os.File, timeout time.Duration) (sent int64, err error) {
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", `attachment; filename="opper_exporter.db"`)
	w.Header().Set("Content-Length", strconv.FormatInt(info.Size(), 10))
	control := http.NewResponseController(w)
	for sent < info.Size() {
		if err := control.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
			return sent, fmt.Errorf("limit the time of the response: %w", err)
		}
		n, err := io.CopyN(w, file, min(copyPart, info.Size()-sent))
		sent += n
		if err != nil {
			return sent, err
		}
	}
	return sent, control.Flush()
}
