package opper

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
)

// No field of what is kept may hold a body: only the known strings are there.
func TestDecodeKeepsNoBodies(t *testing.T) {
	secret := strings.Repeat("private", 1<<20)
	page, err := DecodePage(strings.NewReader(`{"input":"`+secret+`","data":[{"input":"`+secret+`","id":"a","output":"`+secret+`","spans":[{"input":"`+secret+`"}]}]}`), PageSize)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Page{[]Trace{{ID: "a"}}, -1}); !reflect.DeepEqual(page, want) {
		t.Errorf("got %d traces, want only an id", len(page.Traces))
	}
}

// However an answer is made, decoding it takes little memory: what was not asked
// for is skipped without being kept, and the rest has a bound.
func TestDecodeIsBounded(t *testing.T) {
	const size = 2 << 20
	long := strings.Repeat("name", maxValue/4)
	for name, of := range map[string]struct {
		before, piece, after string
		most                 uint64 // bytes, in all
		unusable             bool
	}{
		"body":               {`{"data":[{"id":"a","input":"`, strings.Repeat("private ", 1<<10), `"}]}`, 1 << 20, false},
		"escapes":            {`{"data":[{"id":"a","output":"`, strings.Repeat(`\"\u00e9\n`, 1<<10), `"}]}`, 1 << 20, false},
		"key":                {`{"data":[{"id":"a","input`, strings.Repeat("private ", 1<<10), `":1}]}`, 1 << 20, false},
		"escaped key":        {`{"data":[{"id":"a","input`, strings.Repeat(`\u0069`, 1<<10), `":1}]}`, 1 << 20, false},
		"number":             {`{"data":[{"id":"a","input":1`, strings.Repeat("1234567890", 1<<10), `}]}`, 1 << 20, false},
		"array":              {`{"data":[{"id":"a","input":[1`, strings.Repeat(`,{"private":[true,null]}`, 1<<10), `]}]}`, 1 << 20, false},
		"space":              {`{"data":[{"id":"a","input":`, strings.Repeat(" \t\r\n", 1<<10), `1}]}`, 1 << 20, false},
		"space around":       {`{"data":[{"id":"a"}]`, strings.Repeat(" \t\r\n", 1<<10), `}`, 1 << 20, false},
		"name":               {`{"data":[{"id":"a","name":"`, strings.Repeat("private ", 1<<10), `"}]}`, 2 << 20, false},
		"escaped name":       {`{"data":[{"id":"a","name":"`, strings.Repeat(`\ud83d\ude00`, 1<<10), `"}]}`, 2 << 20, false},
		"status":             {`{"data":[{"id":"a","status":"`, strings.Repeat(`\n`, 1<<10), `"}]}`, 2 << 20, false},
		"id":                 {`{"data":[{"uuid":"a","id":"`, strings.Repeat("private ", 1<<10), `"}]}`, 2 << 20, false},
		"time":               {`{"data":[{"id":"a","start_time":"2026-01-01T00:00:00.`, strings.Repeat("0", 1<<13), `Z"}]}`, 2 << 20, false},
		"digits":             {`{"data":[{"id":"a","total_tokens":1`, strings.Repeat("0", 1<<13), `,"duration_ms":2}]}`, 1 << 20, false},
		"fraction":           {`{"data":[{"id":"a","duration_ms":0.`, strings.Repeat("0", 1<<13), `}]}`, 1 << 20, false},
		"total":              {`{"data":[{"id":"a"}],"meta":{"total_count":1e`, strings.Repeat("0", 1<<13), `}}`, 1 << 20, false},
		"ids of one row":     {`{"data":[{"id":"a"`, `,"id":"` + long[:maxID] + `"`, `}]}`, 1 << 20, false},
		"lists":              {`{"data":[{"id":"a"}]`, `,"data":[{"id":"` + long[:maxID] + `"}]`, `}`, 5 << 20, true},
		"empty lists":        {`{"data":[{"id":"a"}]`, `,"traces":[]`, `}`, 1 << 20, false},
		"totals":             {`{"data":[{"id":"a"}]`, `,"meta":{"total_count":1}`, `}`, 1 << 20, false},
		"open arrays":        {`{"data":[{"id":"a"}],"x":`, "[", ``, 8 << 20, true},
		"open objects":       {`{"data":[{"id":"a"}],"x":`, `{"":`, ``, 8 << 20, true},
		"open rows":          {`{"data":[`, `[`, ``, 8 << 20, true},
		"empty rows":         {`{"data":[{}`, `,{}`, `]}`, 1 << 20, true},
		"rows that are none": {`{"traces":[0`, `,0`, `]}`, 1 << 20, true},
		"rows":               {`{"data":[{"id":"b"}`, `,{"name":"` + long[:1000] + `","id":"a"}`, `]}`, 1 << 20, true},
	} {
		t.Run(name, func(t *testing.T) {
			for what, decode := range map[string]func(io.Reader) (held any, err error){
				"page":  func(r io.Reader) (any, error) { return DecodePage(r, PageSize) },
				"trace": func(r io.Reader) (any, error) { return decodeTrace(r) },
			} {
				before, after := of.before, of.after
				if what == "trace" && strings.HasPrefix(before, `{"data":[{`) && !of.unusable {
					before, after = strings.Replace(before, "[", "", 1), strings.Replace(after, "]", "", 1)
				}
				body := io.MultiReader(strings.NewReader(before), &repeated{of.piece, size / len(of.piece), 0}, strings.NewReader(after))
				_, _ = decode(strings.NewReader(samplePage)) // so that there is a scanner
				var start, end runtime.MemStats
				runtime.ReadMemStats(&start)
				held, err := decode(body)
				runtime.ReadMemStats(&end)
				if of.unusable != (err != nil) && what == "page" {
					t.Errorf("%s: got %v, want an error: %t", what, err, of.unusable)
				}
				if took := end.TotalAlloc - start.TotalAlloc; took > of.most {
					t.Errorf("%s: %d bytes were allocated", what, took)
				}
				runtime.GC()
				runtime.ReadMemStats(&end)
				if holds := int64(end.HeapAlloc) - int64(start.HeapAlloc); holds > 2<<20 {
					t.Errorf("%s: %d bytes are held", what, holds)
				}
				runtime.KeepAlive(held)
			}
		})
	}
}

// What a row says of itself again and again is not held, either.
func TestDecodeHoldsNoRepeatedKeys(t *testing.T) {
	const size = 32 << 20
	for name, of := range map[string]struct {
		key    string
		length int // of each value
		decode func(io.Reader) error
	}{
		"names":    {"name", maxValue, func(r io.Reader) error { _, err := DecodePage(r, PageSize); return err }},
		"statuses": {"status", maxValue, func(r io.Reader) error { _, err := DecodePage(r, PageSize); return err }},
		"models":   {"model", maxID, func(r io.Reader) error { _, err := decodeUsage(r, hoursOf(allGroups), maxUsageRows); return err }},
	} {
		t.Run(name, func(t *testing.T) {
			var start, end runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&start)
			r, w := io.Pipe()
			go func() {
				_, _ = io.WriteString(w, `{"data":[{"time_bucket":"2026-10-01T10:00:00Z"`) // never fails, all is read
				for i := range size / of.length {
					_, _ = fmt.Fprintf(w, `,"%s":"%0*d"`, of.key, of.length, i)
				}
				runtime.GC()
				runtime.ReadMemStats(&end)
				_, _ = io.WriteString(w, `}]}`)
				_ = w.Close()
			}()
			err := of.decode(r)
			if holds := int64(end.HeapAlloc) - int64(start.HeapAlloc); err != nil || holds > size/2 {
				t.Errorf("%v, %d bytes were held", err, holds)
			}
		})
	}
}

// A page holds no more than its rows may.
func TestDecodeFullPage(t *testing.T) {
	row := `{"id":"` + strings.Repeat("i", 1000) + `","name":"` + strings.Repeat(`\u00e9`, maxValue) + `","status":"` + strings.Repeat("s", 2*maxValue) + `"}`
	page, err := DecodePage(strings.NewReader(`{"data":[`+row+strings.Repeat(","+row, PageSize-1)+`]}`), PageSize)
	if err != nil || len(page.Traces) != PageSize {
		t.Fatal(len(page.Traces), err)
	}
	const digest = 1 + 2*sha256.Size
	for _, trace := range page.Traces {
		if len(trace.ID) != maxID+digest || len(trace.Name) != maxValue+digest || len(trace.Status) != maxValue+digest {
			t.Fatalf("got %d, %d and %d bytes", len(trace.ID), len(trace.Name), len(trace.Status))
		}
	}
}

func TestDecodeTooManyRows(t *testing.T) {
	for _, list := range []string{"data", "traces"} {
		for _, limit := range []int{1, 7, PageSize, PageSize + 1} {
			body := `{"` + list + `":[{"id":"a"}` + strings.Repeat(`,{"id":"a"}`, limit-1)
			page, err := DecodePage(strings.NewReader(body+`]}`), limit)
			if err != nil || len(page.Traces) != limit {
				t.Errorf("%d: got %d rows, %v", limit, len(page.Traces), err)
			}
			// Nothing is read after the row that is too many.
			_, err = DecodePage(iotest.OneByteReader(io.MultiReader(strings.NewReader(body+`,{`), iotest.ErrReader(errors.New("read on")))), limit)
			if want := fmt.Sprintf("more rows than the limit of %d", limit); !errors.Is(err, ErrTooManyRows) || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
		}
	}
}

// repeated reads a text several times.
type repeated struct {
	text string
	left int
	at   int
}

func (r *repeated) Read(p []byte) (int, error) {
	if r.at == len(r.text) {
		r.left, r.at = r.left-1, 0
	}
	if r.left <= 0 {
		return 0, io.EOF
	}
	n := copy(p, r.text[r.at:])
	r.at += n
	return n, nil
}

// A page takes one allocation for the id of each trace, and few others.
func TestDecodeAllocations(t *testing.T) {
	const rows = 100
	row := samplePage[strings.Index(samplePage, "{\n      "):strings.LastIndex(samplePage, "\n  ]")]
	row = strings.Replace(row, `"input": "<string>"`, `"input": "`+strings.Repeat(`é\n\"`, 1000)+`"`, 1)
	body := `{"data":[` + row + strings.Repeat(","+row, rows-1) + `]}`
	allocs := fewestAllocs(func() {
		if page, err := DecodePage(strings.NewReader(body), PageSize); err != nil || len(page.Traces) != rows {
			t.Fatal(len(page.Traces), err)
		}
	})
	if allocs > 2*rows {
		t.Errorf("%v allocations for %d traces", allocs, rows)
	}
}
