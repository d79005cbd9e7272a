package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
)

// author is the account that GitHub Actions comments as. A comment by anyone else that carries the marker stays untouched.
const author = "github-actions[bot]"

// workflowRun is what GitHub itself says of the run that made the previews.
type workflowRun struct {
	HeadSHA    string `json:"head_sha"`
	HeadBranch string `json:"head_branch"`
	URL        string `json:"html_url"`
	HeadRepo   struct {
		Owner struct {
			Login string `json:"login"`
		} `json:"owner"`
	} `json:"head_repository"`
}

// readEvent reads the workflow_run event at path.
func readEvent(path string) (workflowRun, error) {
	var event struct {
		Run workflowRun `json:"workflow_run"`
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return workflowRun{}, fmt.Errorf("event: %w", err)
	}
	if err := json.Unmarshal(content, &event); err != nil {
		return workflowRun{}, fmt.Errorf("event: %w", err)
	}
	if event.Run.HeadSHA == "" || event.Run.HeadBranch == "" || event.Run.HeadRepo.Owner.Login == "" {
		return workflowRun{}, errors.New("event: no workflow run with a head branch in it; post runs on workflow_run only")
	}
	return event.Run, nil
}

// client speaks the part of GitHub's REST API that comments need.
type client struct {
	http              *http.Client
	base, token, repo string
}

type comment struct {
	ID   int64  `json:"id,omitempty"`
	Body string `json:"body"`
	User struct {
		Login string `json:"login"`
	} `json:"user,omitzero"`
}

// post writes body as the preview comment of every open pull request whose head is the run's commit. A pull request
// that has moved on since gets none: its newer run comments.
func (c client) post(ctx context.Context, run workflowRun, body string, log io.Writer) error {
	var pulls []struct {
		Number int `json:"number"`
		Head   struct {
			SHA string `json:"sha"`
		} `json:"head"`
	}
	head := url.QueryEscape(run.HeadRepo.Owner.Login + ":" + run.HeadBranch)
	if err := c.call(ctx, http.MethodGet, "/pulls?state=open&per_page=100&head="+head, nil, &pulls); err != nil {
		return err
	}
	posted := false
	for _, pull := range pulls {
		if pull.Head.SHA != run.HeadSHA {
			continue
		}
		if err := c.upsert(ctx, pull.Number, body); err != nil {
			return fmt.Errorf("pull request %d: %w", pull.Number, err)
		}
		posted = true
		fmt.Fprintf(log, "commented on pull request %d\n", pull.Number)
	}
	if !posted {
		fmt.Fprintf(log, "no open pull request has commit %s as its head any more; nothing to comment on\n", run.HeadSHA)
	}
	return nil
}

// upsert updates the pull request's preview comment, or makes it.
func (c client) upsert(ctx context.Context, number int, body string) error {
	for page := 1; ; page++ {
		var comments []comment
		if err := c.call(ctx, http.MethodGet, fmt.Sprintf("/issues/%d/comments?per_page=100&page=%d", number, page), nil, &comments); err != nil {
			return err
		}
		for _, old := range comments {
			if old.User.Login == author && strings.HasPrefix(old.Body, marker) {
				return c.call(ctx, http.MethodPatch, fmt.Sprintf("/issues/comments/%d", old.ID), comment{Body: body}, nil)
			}
		}
		if len(comments) < 100 {
			return c.call(ctx, http.MethodPost, fmt.Sprintf("/issues/%d/comments", number), comment{Body: body}, nil)
		}
	}
}

// call sends one request below the repository and decodes the answer into out unless that is nil.
func (c client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		content, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(content)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.base+"/repos/"+c.repo+path, body)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "application/vnd.github+json")
	request.Header.Set("Authorization", "Bearer "+c.token)
	request.Header.Set("X-GitHub-Api-Version", "2022-11-28")
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close() //nolint:errcheck // it was only read
	answer, err := io.ReadAll(io.LimitReader(response.Body, 16<<20))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %s", method, path, response.Status, bytes.TrimSpace(answer[:min(len(answer), 500)]))
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}
