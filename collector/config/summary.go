package config

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// writeSummary prints what would run, without keys.
func writeSummary(to io.Writer, projects []Project) error {
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(table, "PROJECT\tURL\tNAME FILTER\tINTERVAL\tKEY FROM\n") // Flush returns its error
	for _, p := range projects {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", printable(p.Name), p.UpstreamURL, cmp.Or(printable(p.Opper.Name), "-"), interval(p.Interval), printable(p.KeyOrigin))
	}
	unit := "projects"
	if len(projects) == 1 {
		unit = "project"
	}
	_, _ = fmt.Fprintf(table, "configuration is valid: %d %s\n", len(projects), unit)
	return table.Flush()
}

// maxURLs bounds a line of the log.
const maxURLs = 10

// UpstreamURLs lists where projects are read from, each URL once. They hold no key.
func UpstreamURLs(projects []Project) string {
	var urls []string
	for _, p := range projects {
		urls = append(urls, p.UpstreamURL)
	}
	slices.Sort(urls)
	urls = slices.Compact(urls)
	if more := len(urls) - maxURLs; more > 0 {
		urls = append(urls[:maxURLs], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(urls, ", ")
}

func interval(d time.Duration) string {
	if d == 0 {
		return "on scrape"
	}
	return d.String()
}

// printable returns a text as one cell of a table.
func printable(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(text)
	}
	return text
}
