package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// print writes the report for people.
func (r Report) print(w io.Writer) error {
	fmt.Fprintf(w, "%s, %d CPUs, %s; %d runs each after a warm-up\n\n", r.OS, r.CPUs, r.Go, r.Runs)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "median\tmin\tmax\ttarget\t× floor\t  what\t")
	for _, s := range append(slices.Clone(r.Operations), r.Startup...) {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t  %s\t\n", seconds(s.Median), seconds(s.Min), seconds(s.Max), s.verdict(), multiple(s.Floors), s.Name)
	}
	if len(r.Growth) > 0 {
		fmt.Fprintln(table, "\t\t\t\t\t\t")
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if err := r.printGrowth(w); err != nil {
		return err
	}
	return r.printToolChain(w)
}

func (r Report) printGrowth(w io.Writer) error {
	if len(r.Growth) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "nodes\tresources\toperation\ttime\tmemory\tProxmox calls\tTalos calls\t  largest processes\t")
	for _, g := range r.Growth {
		for _, o := range []struct {
			name string
			cost Cost
		}{{"up", g.Up}, {"preview", g.Preview}, {"refresh", g.Refresh}} {
			fmt.Fprintf(table, "%d\t%d\t%s\t%s\t%s\t%d\t%d\t  %s\t\n", g.Nodes, g.Resources, o.name, seconds(o.cost.Seconds),
				megabytes(o.cost.Memory.Total), o.cost.Proxmox, o.cost.Talos, o.cost.Memory.largest())
		}
	}
	fmt.Fprintln(table)
	return table.Flush()
}

func (r Report) printToolChain(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "tool\tversion\tsource\tbuild\tsize\t")
	for _, t := range r.ToolChain {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t\n", t.Name, t.Version, t.Source, seconds(t.Seconds), megabytes(t.Bytes))
	}
	if r.ColdToolChain > 0 {
		fmt.Fprintf(table, "all, empty caches\t\tbuilt\t%s\t\t\n", seconds(r.ColdToolChain))
	}
	return table.Flush()
}

func (s Series) verdict() string {
	switch {
	case s.Target == 0:
		return "-"
	case s.Median <= s.Target:
		return "≤ " + seconds(s.Target) + " ok"
	default:
		return "≤ " + seconds(s.Target) + " MISSED"
	}
}

// largest names the processes that need most, the sandbox's command standing for the program in it.
func (m memory) largest() string {
	names := slices.SortedFunc(maps.Keys(m.Parts), func(a, b string) int { return int(m.Parts[b] - m.Parts[a]) })
	var parts []string
	for _, name := range names[:min(4, len(names))] {
		parts = append(parts, strings.TrimPrefix(name, "pulumi-resource-")+" "+megabytes(m.Parts[name]))
	}
	return strings.Join(parts, ", ")
}

func seconds(s float64) string {
	switch {
	case s == 0:
		return "-"
	case s < 1:
		return fmt.Sprintf("%.0f ms", s*1000)
	default:
		return fmt.Sprintf("%.2f s", s)
	}
}

func multiple(x float64) string {
	if x == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", x)
}

func megabytes(n int64) string { return fmt.Sprintf("%.0f MB", float64(n)/1e6) }
