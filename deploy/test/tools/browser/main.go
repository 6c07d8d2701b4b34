// Command browser looks at pages in a headless Chromium and runs a script in each.
// It reads what to do as JSON from its standard input, and writes what it saw.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// patience is for all pages together, and for the start of Chromium.
const patience = 5 * time.Minute

type request struct {
	Script string // its value is the result
	Views  []view
}

// view is one look at a page.
type view struct {
	URL        string
	Width      int64
	Dark       bool
	Screenshot string // file to write, as PNG; empty makes none
}

// seen is what a look at a page has found.
type seen struct {
	Result json.RawMessage
	Errors []string // in the console
}

func main() {
	var r request
	err := json.NewDecoder(os.Stdin).Decode(&r)
	if err == nil {
		var all []seen
		if all, err = look(r); err == nil {
			err = json.NewEncoder(os.Stdout).Encode(all)
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "browser: error: %s\n", err)
		os.Exit(1)
	}
}

func look(r request) (all []seen, err error) {
	path, err := find("chromium", "chromium-browser", "google-chrome")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ctx, cancel = chromedp.NewExecAllocator(ctx, append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.WSURLReadTimeout(patience),
		// The pages are our own, and containers have neither what a sandbox needs nor
		// much shared memory.
		chromedp.NoSandbox, chromedp.Flag("disable-dev-shm-usage", true))...)
	defer cancel()
	ctx, cancel = chromedp.NewContext(ctx)
	defer cancel()
	if err := chromedp.Do(ctx); err != nil { // starts it
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, v := range r.Views {
		s, err := v.look(ctx, r.Script)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", v.URL, err)
		}
		all = append(all, s)
	}
	return all, nil
}

func find(names ...string) (string, error) {
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("no Chromium is installed, and tests of pages need it: apt-get install -y chromium")
}

// look opens the page in a tab of its own.
func (v view) look(ctx context.Context, script string) (s seen, err error) {
	ctx, cancel := chromedp.NewContext(ctx)
	defer cancel()
	var mu sync.Mutex
	if err := chromedp.Listen(ctx, func(event any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := event.(type) {
		case *log.EventEntryAdded:
			s.Errors = append(s.Errors, e.Entry.Text+" "+e.Entry.URL)
		case *runtime.EventExceptionThrown:
			s.Errors = append(s.Errors, e.ExceptionDetails.Text)
		}
	}); err != nil {
		return s, err
	}
	if _, err := chromedp.Call(ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: v.Width, Height: 800, DeviceScaleFactor: 1, Mobile: v.Width < 800}); err != nil {
		return s, err
	}
	scheme := "light"
	if v.Dark {
		scheme = "dark"
	}
	if _, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}); err != nil {
		return s, err
	}
	if err := chromedp.Do(ctx, chromedp.Navigate(v.URL)); err != nil {
		return s, err
	}
	result, err := chromedp.Run(ctx, chromedp.Evaluate[[]byte](script))
	if err != nil {
		return s, err
	}
	if v.Screenshot != "" {
		image, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
		if err != nil {
			return s, err
		}
		if err := os.WriteFile(v.Screenshot, image, 0o600); err != nil {
			return s, err
		}
	}
	mu.Lock()
	defer mu.Unlock()
	s.Result = result
	return s, nil
}
