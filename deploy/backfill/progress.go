package main

import (
	"io"
	"os"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// logInterval is how often a step logs its progress, the same as in the exporter.
const logInterval = 10 * time.Second

// progress shows how far a step is: as a bar on a terminal, and as lines of the log
// elsewhere.
type progress struct {
	to         io.Writer
	isTerminal bool
	logger     log.Logger

	mu     sync.Mutex
	bar    *progressbar.ProgressBar // nil without a terminal, and between steps
	step   string
	logged time.Time
}

func newProgress(to io.Writer) *progress {
	file, ok := to.(*os.File)
	return &progress{to: to, isTerminal: ok && term.IsTerminal(int(file.Fd())), logger: log.NewNopLogger()}
}

// begin begins a step, such as "writing history".
func (p *progress) begin(step string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.step, p.logged = step, time.Now()
	if p.isTerminal {
		// A spinner would draw from a goroutine of its own, which goes on after Clear.
		p.bar = progressbar.NewOptions64(-1, progressbar.OptionSetWriter(p.to), progressbar.OptionSetDescription(step),
			progressbar.OptionShowCount(), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionSetPredictTime(true),
			progressbar.OptionSetSpinnerChangeInterval(0))
	}
}

// show shows on the bar that so much of the step is done.
func (p *progress) show(done, of int) { _, _ = p.draw(done, of) }

// set shows that, and logs it where there is no bar.
func (p *progress) set(done, of int) {
	if step, isDue := p.draw(done, of); isDue {
		level.Info(p.logger).Log("msg", step, "done", done, "of", of)
	}
}

// draw draws the bar, or reports whether it is time for a line of the log.
func (p *progress) draw(done, of int) (step string, isDue bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		if of > 0 {
			p.bar.ChangeMax(of)
		}
		_ = p.bar.Set(done) // of a terminal that is gone
		return "", false
	}
	if isDue = time.Since(p.logged) >= logInterval; isDue {
		p.logged = time.Now()
	}
	return p.step, isDue
}

// end ends a step.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Clear()
		p.bar = nil
	}
}

// Write writes lines of the log, which take the place of the bar until it is drawn again.
func (p *progress) Write(line []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Clear()
	}
	return p.to.Write(line)
}
