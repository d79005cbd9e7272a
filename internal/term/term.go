// Package term is the one way Cloudlab's commands talk to people: short lines with one set of glyphs, and steps that
// show what runs at the moment and for how long.
//
// On a terminal running steps are drawn as live lines below what was printed; anywhere else (a pipe, a file, CI) every
// line is plain text without escape sequences, and a long step reports that it is still alive. Colours are left out
// when NO_COLOR is set. The package is for people only: what a program should read (JSON, shell exports) goes to
// standard output directly.
package term

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/charmbracelet/x/ansi"
	xterm "golang.org/x/term"
)

// The glyphs that begin a line.
const (
	GlyphAction  = "►"
	GlyphSuccess = "✔"
	GlyphWarning = "⚠"
	GlyphFailure = "✗"
	GlyphWaiting = "◎"
)

const (
	heartbeat = 30 * time.Second       // how often a long step says on a plain output that it still runs
	frameTime = 100 * time.Millisecond // how often live lines are redrawn
)

// Terminal is a writer that may be a terminal. New asks it; an *os.File needs no wrapping.
type Terminal interface {
	io.Writer
	// Size gives the columns and rows of the terminal, and false when the writer is none.
	Size() (columns, rows int, ok bool)
}

// Printer writes lines for people. Its methods may be called from several goroutines. Errors of the writer are
// dropped: when nobody can read the lines, the work goes on.
type Printer struct {
	out   io.Writer
	size  func() (columns, rows int)
	live  bool // the output is a terminal: draw running steps in place
	color bool

	mu    sync.Mutex
	steps []*Step // running, in the order they began; only kept when live
	drawn int     // live lines on the screen
	frame int
	stop  chan struct{} // ends the redrawing goroutine; nil while no step runs
}

// New returns a printer for w. Live lines and colours need a terminal that understands escape sequences
// (TERM is not "dumb"); NO_COLOR set to anything but the empty string turns colours off.
func New(w io.Writer) *Printer {
	p := &Printer{out: w}
	if size := terminalSize(w); size != nil && os.Getenv("TERM") != "dumb" {
		p.live, p.size = true, size
		p.color = os.Getenv("NO_COLOR") == ""
	}
	return p
}

// Discard returns a printer that says nothing.
func Discard() *Printer { return New(io.Discard) }

// terminalSize returns the way to ask for w's size, nil when w is not a terminal.
func terminalSize(w io.Writer) func() (columns, rows int) {
	ask := func() (int, int, bool) { return 0, 0, false }
	switch w := w.(type) {
	case Terminal:
		ask = w.Size
	case *os.File:
		if fd := int(w.Fd()); xterm.IsTerminal(fd) {
			ask = func() (int, int, bool) {
				columns, rows, err := xterm.GetSize(fd)
				return columns, rows, err == nil
			}
		}
	}
	if _, _, ok := ask(); !ok {
		return nil
	}
	return func() (int, int) {
		columns, rows, ok := ask()
		if !ok || columns <= 0 || rows <= 0 {
			return 80, 24
		}
		return columns, rows
	}
}

// Action announces what is about to be done.
func (p *Printer) Action(format string, args ...any) { p.line(GlyphAction, format, args) }

// Success reports what was done.
func (p *Printer) Success(format string, args ...any) { p.line(GlyphSuccess, format, args) }

// Warn reports what a person should look at though the work goes on.
func (p *Printer) Warn(format string, args ...any) { p.line(GlyphWarning, format, args) }

// Fail reports what did not work.
func (p *Printer) Fail(format string, args ...any) { p.line(GlyphFailure, format, args) }

// Wait reports what the work is waiting for.
func (p *Printer) Wait(format string, args ...any) { p.line(GlyphWaiting, format, args) }

// Info prints a line without a glyph, such as a hint below another line.
func (p *Printer) Info(format string, args ...any) { p.line("", format, args) }

func (p *Printer) line(glyph, format string, args []any) {
	text := fmt.Sprintf(format, args...)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.print(glyph, text)
}

// print writes one finished message above the live lines. The caller holds the lock.
func (p *Printer) print(glyph, text string) {
	if !p.live {
		text = ansi.Strip(text)
	}
	text = strings.TrimRight(strings.ReplaceAll(text, "\r", ""), "\n")
	if glyph != "" {
		// Further lines of a message stand below its text, not below its glyph.
		text = p.paint(glyph, glyph) + " " + strings.ReplaceAll(text, "\n", "\n  ")
	}
	p.write(p.eraseLive() + text + "\n" + p.drawLive())
}

func (p *Printer) write(s string) {
	_, _ = io.WriteString(p.out, s)
}

// paint colours text as the glyph's lines are coloured.
func (p *Printer) paint(glyph, text string) string {
	if !p.color {
		return text
	}
	colors := map[string]string{
		GlyphAction: "36", GlyphSuccess: "32", GlyphWarning: "33", GlyphFailure: "31", GlyphWaiting: "35",
	}
	return "\x1b[" + colors[glyph] + "m" + text + "\x1b[0m"
}
