package config

import "strings"

// nearest returns the candidate that a misspelt word most likely means, or "" when none is close enough to suggest.
func nearest(word string, candidates []string) string {
	best, distance := "", max(1, len(word)/3)+1

	for _, candidate := range candidates {
		if d := editDistance(strings.ToLower(word), strings.ToLower(candidate)); d < distance {
			best, distance = candidate, d
		}
	}

	return best
}

// editDistance counts the insertions, deletions, replacements and swaps of neighbours that turn a into b.
func editDistance(a, b string) int {
	s, t := []rune(a), []rune(b)
	before, last, row := make([]int, len(t)+1), make([]int, len(t)+1), make([]int, len(t)+1)

	for j := range last {
		last[j] = j
	}

	for i := 1; i <= len(s); i++ {
		row[0] = i

		for j := 1; j <= len(t); j++ {
			replace := 1
			if s[i-1] == t[j-1] {
				replace = 0
			}

			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+replace)

			if i > 1 && j > 1 && s[i-1] == t[j-2] && s[i-2] == t[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}

		before, last, row = last, row, before
	}

	return last[len(t)]
}

// write phrases a replacement, or nothing.
func write(replacement string) string {
	if replacement == "" {
		return ""
	}

	return "write " + replacement
}

// choose suggests the nearest candidate, else names all of them.
func choose(word string, candidates []string) string {
	if near := nearest(word, candidates); near != "" {
		return write(near)
	}

	if len(candidates) == 0 {
		return ""
	}

	if len(candidates) == 1 {
		return write(candidates[0])
	}

	last := len(candidates) - 1

	return "choose " + strings.Join(candidates[:last], ", ") + " or " + candidates[last]
}
