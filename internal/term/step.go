package term

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"
)

// Step is work that takes a while. Its methods may be called from any goroutine; whatever is called after the step
// has ended does nothing, so a deferred safety net is harmless.
type Step struct {
	p     *Printer
	name  string
	begun time.Time

	// Guarded by the printer's lock.
	message string
	ended   bool
	beat    *time.Timer // next heartbeat on a plain output
}

// Step begins a step. It must be ended with Done or Fail.
func (p *Printer) Step(name string) *Step {
	s := &Step{p: p, name: oneLine(name), begun: time.Now()}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.live {
		p.print(GlyphAction, s.name)
		s.beat = time.AfterFunc(heartbeat, s.stillRunning)
		return s
	}
	p.steps = append(p.steps, s)
	p.redraw()
	if p.stop == nil {
		p.stop = make(chan struct{})
		go p.animate(p.stop)
	}
	return s
}

// Update replaces what the running step says about itself. It is cheap enough to be called for every small progress.
func (s *Step) Update(format string, args ...any) {
	message := oneLine(fmt.Sprintf(format, args...))
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.message = message
}

// Done ends the step well. The message, if any, says what came out of it.
func (s *Step) Done(format string, args ...any) {
	s.end(GlyphSuccess, fmt.Sprintf(format, args...))
}

// Fail ends the step with its error.
func (s *Step) Fail(err error) {
	s.end(GlyphFailure, err.Error())
}

func (s *Step) end(glyph, message string) {
	p := s.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.ended {
		return
	}
	s.ended = true
	if s.beat != nil {
		s.beat.Stop()
	}
	p.write(p.eraseLive())
	p.steps = slices.DeleteFunc(p.steps, func(o *Step) bool { return o == s })
	if len(p.steps) == 0 && p.stop != nil {
		close(p.stop)
		p.stop = nil
	}
	first, rest, _ := strings.Cut(message, "\n")
	text := s.label(first) + s.elapsed()
	if rest != "" {
		text += "\n" + rest
	}
	p.print(glyph, text)
}

// stillRunning is the heartbeat on a plain output.
func (s *Step) stillRunning() {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if s.ended {
		return
	}
	s.p.print(GlyphWaiting, s.label(s.message)+s.elapsed())
	s.beat.Reset(heartbeat)
}

func (s *Step) label(message string) string {
	if message == "" {
		return s.name
	}
	return s.name + ": " + message
}

// elapsed is the time since the step began, in a form that does not flicker: nothing in the first half second, then
// seconds with one digit, whole seconds from ten on.
func (s *Step) elapsed() string {
	d := time.Since(s.begun)
	switch {
	case d < 500*time.Millisecond:
		return ""
	case d < 10*time.Second:
		return fmt.Sprintf(" (%.1fs)", d.Seconds())
	default:
		return fmt.Sprintf(" (%s)", d.Round(time.Second))
	}
}

// animate redraws the live lines until stop is closed.
func (p *Printer) animate(stop <-chan struct{}) {
	ticker := time.NewTicker(frameTime)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
			p.mu.Lock()
			p.frame++
			if len(p.steps) > 0 {
				p.redraw()
			}
			p.mu.Unlock()
		}
	}
}

func (p *Printer) redraw() {
	p.write(p.eraseLive() + p.drawLive())
}

// eraseLive returns what removes the live lines and leaves the cursor where the first of them began.
func (p *Printer) eraseLive() string {
	if p.drawn == 0 {
		return ""
	}
	up := p.drawn
	p.drawn = 0
	return "\r" + ansi.CursorUp(up) + ansi.EraseScreenBelow
}

// drawLive returns the live lines. Each takes exactly one row and all fit on the screen, or they could not be erased.
func (p *Printer) drawLive() string {
	if len(p.steps) == 0 {
		return ""
	}
	columns, rows := p.size()
	shown := p.steps
	hidden := 0
	if most := max(1, rows-2); len(shown) > most {
		hidden = len(shown) - most
		shown = shown[:most]
	}
	spinner := []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}
	var b strings.Builder
	for _, s := range shown {
		elapsed := s.elapsed()
		// The last column stays free: a terminal may wrap when it is written to.
		room := max(0, columns-1-ansi.StringWidth("⠋ "))
		text := ansi.Truncate(s.label(s.message), max(1, room-ansi.StringWidth(elapsed)), "…") + elapsed
		b.WriteString(p.paint(GlyphWaiting, spinner[p.frame%len(spinner)]) + " " + ansi.Truncate(text, room, "") + "\n")
	}
	p.drawn = len(shown)
	if hidden > 0 {
		fmt.Fprintf(&b, "  … and %d more\n", hidden)
		p.drawn++
	}
	return b.String()
}

// oneLine makes text fit a line: no escape sequences, line breaks or other control characters.
func oneLine(text string) string {
	return strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, ansi.Strip(text))), " ")
}
