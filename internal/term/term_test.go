package term_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"cloudlab/internal/term"
)

// screen is a fake terminal: it obeys the few escape sequences that the printer may use and fails on any other.
type screen struct {
	t             *testing.T
	columns, rows int

	mu    sync.Mutex
	lines []string
	row   int
	raw   bytes.Buffer
}

func newScreen(t *testing.T, columns, rows int) *screen {
	return &screen{t: t, columns: columns, rows: rows, lines: []string{""}}
}

func (s *screen) Size() (columns, rows int, ok bool) { return s.columns, s.rows, true }

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.raw.Write(p)
	text := string(p)
	for text != "" {
		switch {
		case text[0] == '\n':
			s.row++
			if s.row == len(s.lines) {
				s.lines = append(s.lines, "")
			}
			text = text[1:]
		case text[0] == '\r':
			text = text[1:]
		case strings.HasPrefix(text, "\x1b["):
			text = s.escape(text[2:])
		default:
			end := strings.IndexAny(text, "\n\r\x1b")
			if end < 0 {
				end = len(text)
			}
			s.lines[s.row] += text[:end]
			text = text[end:]
		}
	}
	return len(p), nil
}

// escape obeys one sequence and returns what follows it.
func (s *screen) escape(text string) string {
	end := strings.IndexFunc(text, func(r rune) bool { return r >= '@' && r <= '~' })
	if end < 0 {
		s.t.Errorf("unfinished escape sequence %q", text)
		return ""
	}
	number := 1
	_, _ = fmt.Sscanf(text[:end], "%d", &number)
	switch text[end] {
	case 'A':
		if number >= s.rows {
			s.t.Errorf("the cursor goes up %d rows of %d", number, s.rows)
		}
		s.row -= number
	case 'J':
		s.lines = append(s.lines[:s.row], "")
	case 'm':
	default:
		s.t.Errorf("escape sequence %q", text[:end+1])
	}
	return text[end+1:]
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, "\n")
}

func diff(t *testing.T, got, want string) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("output (-want +got):\n%s", d)
	}
}

func TestPlainLines(t *testing.T) {
	var out bytes.Buffer
	p := term.New(&out)
	p.Action("starting %s", "it")
	p.Success("\x1b[32mgreen\x1b[0m")
	p.Warn("first line\nsecond line\n")
	p.Fail("no")
	p.Wait("for it")
	p.Info("a hint")
	diff(t, out.String(), "► starting it\n✔ green\n⚠ first line\n  second line\n✗ no\n◎ for it\na hint\n")
}

func TestPlainStepHasHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := term.New(&out)
		quick := p.Step("quick")
		quick.Update("never shown")
		quick.Done("")
		slow := p.Step("slow")
		slow.Update("half\n\x1b[1mway\x1b[0m")
		time.Sleep(61 * time.Second)
		slow.Done("made of %d parts", 3)
		slow.Fail(errors.New("too late to fail"))
		bad := p.Step("bad")
		time.Sleep(2 * time.Second)
		bad.Fail(errors.New("broken\nnext: mend it"))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		diff(t, out.String(), `► quick
✔ quick
► slow
◎ slow: half way (30s)
◎ slow: half way (1m0s)
✔ slow: made of 3 parts (1m1s)
► bad
✗ bad: broken (2.0s)
  next: mend it
`)
	})
}

func TestTerminalDrawsLiveLines(t *testing.T) {
	t.Setenv("NO_COLOR", "1")
	t.Setenv("TERM", "xterm")
	synctest.Test(t, func(t *testing.T) {
		s := newScreen(t, 40, 24)
		p := term.New(s)
		p.Action("building")
		one, two := p.Step("one"), p.Step("two")
		one.Update("a message that is much too long for this terminal")
		time.Sleep(time.Second)
		synctest.Wait()
		diff(t, s.text(), "► building\n⠋ one: a message that is much t… (1.0s)\n⠋ two (1.0s)\n")

		p.Warn("meanwhile")
		diff(t, s.text(), "► building\n⚠ meanwhile\n⠋ one: a message that is much t… (1.0s)\n⠋ two (1.0s)\n")

		one.Done("fine")
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		diff(t, s.text(), "► building\n⚠ meanwhile\n✔ one: fine (1.0s)\n⠙ two (1.1s)\n")

		two.Fail(errors.New("no"))
		p.Step("three").Done("")
		diff(t, s.text(), "► building\n⚠ meanwhile\n✔ one: fine (1.0s)\n✗ two: no (1.1s)\n✔ three\n")
		if strings.Contains(s.raw.String(), "m✗") {
			t.Error("NO_COLOR is set, yet there is colour")
		}
		// synctest fails the test if the redrawing goroutine outlives the last step.
	})
}

func TestTerminalColours(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "xterm")
	s := newScreen(t, 80, 24)
	term.New(s).Fail("no")
	diff(t, s.raw.String(), "\x1b[31m✗\x1b[0m no\n")
}

func TestDumbTerminalIsPlain(t *testing.T) {
	t.Setenv("TERM", "dumb")
	s := newScreen(t, 80, 24)
	term.New(s).Step("work").Done("")
	diff(t, s.raw.String(), "► work\n✔ work\n")
}

func TestFileIsNoTerminal(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	term.New(f).Step("work").Done("")
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	diff(t, string(got), "► work\n✔ work\n")
}

func TestMoreStepsThanRows(t *testing.T) {
	t.Setenv("NO_COLOR", "1")
	t.Setenv("TERM", "xterm")
	s := newScreen(t, 20, 5)
	p := term.New(s)
	var steps []*term.Step
	for i := range 9 {
		steps = append(steps, p.Step(fmt.Sprint("step ", i)))
	}
	if got := s.text(); !strings.Contains(got, "… and 6 more") {
		t.Errorf("the screen shows:\n%s", got)
	}
	for _, step := range steps {
		step.Done("")
	}
	if got := strings.Count(s.text(), "✔"); got != 9 {
		t.Errorf("%d steps reported done, want 9:\n%s", got, s.text())
	}
}

func TestConcurrentSteps(t *testing.T) {
	t.Setenv("TERM", "xterm")
	for name, out := range map[string]io.Writer{"plain": io.Discard, "terminal": newScreen(t, 60, 30)} {
		t.Run(name, func(t *testing.T) {
			p := term.New(out)
			var wg sync.WaitGroup
			for i := range 20 {
				wg.Go(func() {
					step := p.Step(fmt.Sprint("step ", i))
					for j := range 50 {
						step.Update("%d", j)
						p.Info("line %d of %d", j, i)
					}
					step.Done("")
				})
			}
			wg.Wait()
		})
	}
}
