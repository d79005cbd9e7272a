// Command previewcomment turns the previews of a pull request into one comment.
//
//	previewcomment render DIR   prints the comment's Markdown
//	previewcomment post DIR     posts it, or updates the comment posted before
//
// DIR holds what the preview workflow left: sandbox.txt and, where the stack's secrets were present, stack.txt. A pull
// request's own code wrote these files, so they are untrusted text: they are fenced, bounded, and decide nothing. The pull
// request to comment on comes from the workflow_run event alone (GITHUB_EVENT_PATH).
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := run(ctx, os.Args[1:], os.Getenv, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "previewcomment: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	if len(args) != 2 {
		return fmt.Errorf("want: previewcomment render|post DIR")
	}
	sections, err := readSections(args[1])
	if err != nil {
		return err
	}
	switch args[0] {
	case "render":
		_, err := io.WriteString(stdout, render(sections, ""))
		return err
	case "post":
		run, err := readEvent(getenv("GITHUB_EVENT_PATH"))
		if err != nil {
			return err
		}
		client := client{
			http:  http.DefaultClient,
			base:  getenv("GITHUB_API_URL"),
			token: getenv("GITHUB_TOKEN"),
			repo:  getenv("GITHUB_REPOSITORY"),
		}
		return client.post(ctx, run, render(sections, run.URL), stdout)
	default:
		return fmt.Errorf("unknown command %q: want render or post", args[0])
	}
}
