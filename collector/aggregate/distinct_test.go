package aggregate

import (
	"math"
	"strconv"
	"testing"
)

func TestDistinct(t *testing.T) {
	const maximum = 200_000
	var d distinct
	for n := 1; n <= maximum; n++ {
		name := "agent-" + strconv.Itoa(n)
		d.add(hashOf(name))
		d.add(hashOf(name))
		d.add(hashOf("agent-" + strconv.Itoa(1+n/2)))
		got := d.count()
		if n < 10_000 && got != float64(n) {
			t.Fatalf("%d names count as %v", n, got)
		}
		if n%10_000 == 0 && math.Abs(got-float64(n)) > 0.05*float64(n) {
			t.Errorf("%d names are estimated as %v", n, got)
		}
	}
}
