package main

import (
	"time"

	"opper_exporter/deploy/test/exportertest"
)

type series = exportertest.Series

// reading is what one scrape showed.
type reading struct {
	*exportertest.Reading
	at   time.Time
	life int
}
