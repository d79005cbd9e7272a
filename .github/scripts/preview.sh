#!/usr/bin/env bash
# preview.sh [BASE]: what HEAD would change in a sandbox that the base branch brought up.
#
# Brings the commit where HEAD left BASE (default origin/main) up in a sandbox of its own, from a temporary work tree, then
# runs HEAD's preview against the same machines and state. Writes sandbox.txt and comment.md into PREVIEW_DIR (default
# .sandbox/preview). Needs Go and git, no secret and no network beyond Go modules. Ends with an error when the preview fails;
# the text is written all the same.
set -euo pipefail

base=${1:-origin/main}
head=$(git rev-parse --show-toplevel)
cd "$head"
out=${PREVIEW_DIR:-$head/.sandbox/preview}
mkdir -p "$out"
rm -f "$out/sandbox.txt" "$out/comment.md"

work=$(mktemp -d)
export CLOUDLAB_SANDBOX_DIR="$work/sandbox" NO_COLOR=1 PULUMI_SKIP_UPDATE_CHECK=true

cleanup() {
    # HEAD's own `down` is used, as the base may be without one; neither may hide the preview's result.
    go run ./internal/cmd/sandbox down >"$work/down.log" 2>&1 || cat "$work/down.log" >&2
    git worktree remove --force "$work/base" >/dev/null 2>&1 || true
    # Go keeps modules read-only.
    chmod -R u+w "$work" && rm -rf "$work"
}
trap cleanup EXIT

commit=$(git merge-base "$base" HEAD) || {
    echo "preview.sh: $base and HEAD share no history; fetch the base branch with its history" >&2
    exit 1
}
git worktree add --quiet --detach "$work/base" "$commit"
# One cache of built tools for both: it goes by content, so another pin of the base is another entry.
mkdir -p "$head/.sandbox/toolchain" "$work/base/.sandbox"
ln -s "$head/.sandbox/toolchain" "$work/base/.sandbox/toolchain"

echo "== sandbox up, from $base ($commit)" >&2
if ! (cd "$work/base" && go run ./internal/cmd/sandbox up) >"$work/up.log" 2>&1; then
    cat "$work/up.log" >&2
    {
        echo "The base ($commit) does not come up in the sandbox, so there is nothing to compare with. Its last words:"
        echo
        tail -n 40 "$work/up.log"
    } >"$out/sandbox.txt"
    status=1
else
    echo "== sandbox preview, from HEAD" >&2
    status=0
    go run ./internal/cmd/sandbox preview --diff >"$out/sandbox.txt" 2>&1 || status=$?
    if [ "$status" -ne 0 ]; then
        printf '\nThe preview failed (exit status %d).\n' "$status" >>"$out/sandbox.txt"
    fi
    cat "$out/sandbox.txt" >&2
fi

go run ./internal/cmd/previewcomment render "$out" >"$out/comment.md"
echo "== wrote $out/comment.md" >&2
exit "$status"
