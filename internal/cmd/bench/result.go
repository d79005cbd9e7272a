package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"cloudlab/internal/sandbox/toolchain"
)

// Report is everything that was measured. Times are in seconds, memory in bytes.
type Report struct {
	OS   string `json:"os"`
	CPUs int    `json:"cpus"`
	Go   string `json:"go"`
	Runs int    `json:"runs"`

	Operations []Series `json:"operations"`
	Startup    []Series `json:"startup"`
	Growth     []Growth `json:"growth"`
	// ToolChain tells of each tool how long its build took when it was made.
	ToolChain []toolchain.Origin `json:"toolChain"`
	// ColdToolChain is a build in empty caches, 0 when none was asked for.
	ColdToolChain float64 `json:"coldToolChain,omitempty"`
}

// Series is one thing, measured several times.
type Series struct {
	Name string `json:"name"`
	// Target is what the median should stay below, 0 when nothing is promised.
	Target  float64   `json:"target,omitempty"`
	Min     float64   `json:"min"`
	Median  float64   `json:"median"`
	Max     float64   `json:"max"`
	Samples []float64 `json:"samples"`
	// Floors is the median as a multiple of the floor's: the engine with an empty program on the same machine. 0 where it says nothing.
	Floors float64 `json:"floors,omitempty"`
}

// newSeries sums samples up. There is at least one.
func newSeries(name string, target time.Duration, samples []time.Duration) Series {
	s := Series{Name: name, Target: target.Seconds()}
	for _, d := range samples {
		s.Samples = append(s.Samples, d.Seconds())
	}
	sorted := slices.Sorted(slices.Values(s.Samples))
	s.Min, s.Max = sorted[0], sorted[len(sorted)-1]
	s.Median = (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
	return s
}

// sample runs something once to warm up and then as often as asked.
func (b *bench) sample(ctx context.Context, name string, target time.Duration, once func(context.Context) (time.Duration, error)) (Series, error) {
	step := b.people.Step(name)
	var samples []time.Duration
	for i := range b.runs + 1 {
		took, err := once(ctx)
		if err != nil {
			step.Fail(err)
			return Series{}, fmt.Errorf("%s: %w", name, err)
		}
		if i > 0 {
			samples = append(samples, took)
		}
		step.Update("%d of %d", i, b.runs)
	}
	s := newSeries(name, target, samples)
	step.Done("%s", seconds(s.Median))
	return s, nil
}
