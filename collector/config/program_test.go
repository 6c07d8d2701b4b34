package config

import (
	"strings"
	"testing"

	"github.com/alecthomas/kingpin/v2"
)

// Another program has the same flags, less and more, and no commands.
func TestFlagsOfAnotherProgram(t *testing.T) {
	var own string
	var refused bool
	change := func(app *kingpin.Application) {
		app.GetFlag("web.max-requests").Hidden()
		app.GetFlag("storage.path").IsSetByUser(&refused)
		app.Flag("own", "A flag of its own.").StringVar(&own)
	}
	parse := func(args ...string) (*Validated, string, error) {
		var out strings.Builder
		cfg, _, err := ParseFor("another", "Another program.", change, args, withKey, &out)
		return cfg, out.String(), err
	}
	cfg, _, err := parse("--own=value", "--opper.project=checkout", "--web.max-requests=3")
	if err != nil || own != "value" || refused || cfg.Projects[0].Name != "checkout" || cfg.Scrape.MaxRequests != 3 || cfg.Command != "" {
		t.Errorf("%+v, own flag %q, error %v", cfg, own, err)
	}
	if _, _, err := parse("--storage.path=/data"); err != nil || !refused {
		t.Errorf("a flag that was given is not known to be: %v", err)
	}
	if _, _, err := parse(CommandCheck); err == nil || err.Error() != "unexpected check" {
		t.Errorf("a command of the exporter: %v", err)
	}
	_, help, err := parse("--help")
	if err != nil || !strings.Contains(help, "usage: another") || !strings.Contains(help, "--own") || strings.Contains(help, "--web.max-requests") || strings.Contains(help, "Commands:") {
		t.Errorf("help: %v\n%s", err, help)
	}
	if _, version, err := parse("--version"); err != nil || !strings.HasPrefix(version, "another, version") {
		t.Errorf("version: %v\n%s", err, version)
	}
}
