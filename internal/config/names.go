package config

import (
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// The characters of names. Checking by them and not by regular expressions keeps the program's start short.
const (
	lowerAlnum = "abcdefghijklmnopqrstuvwxyz0123456789"
	letters    = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	alnum      = letters + "0123456789"

	maxLabel = 63 // of DNS names and of Kubernetes' keys and values
	maxName  = 253
)

// spelt tells whether a word of 1 to most bytes consists of some characters, and starts and ends with some of these.
func spelt(word string, most int, ends, all string) bool {
	return word != "" && len(word) <= most && strings.Trim(word, all) == "" &&
		strings.IndexByte(ends, word[0]) >= 0 && strings.IndexByte(ends, word[len(word)-1]) >= 0
}

// each tells whether all parts of a word between separators pass.
func each(word, separator string, ok func(string) bool) bool {
	return !slices.ContainsFunc(strings.Split(word, separator), func(part string) bool { return !ok(part) })
}

func isDNSLabel(s string) bool {
	return spelt(s, maxLabel, lowerAlnum, lowerAlnum+"-")
}

func isDNSName(s string) bool {
	return len(s) <= maxName && each(strings.TrimSuffix(s, "."), ".", isPVENode)
}

// What follows is what Proxmox VE accepts.

func isPVENode(s string) bool {
	return spelt(s, maxLabel, alnum, alnum+"-")
}

func isPVEStorage(s string) bool {
	return len(s) > 1 && strings.IndexByte(letters, s[0]) >= 0 && spelt(s, maxName, alnum, alnum+"._-")
}

func isPVEBridge(s string) bool {
	const ifNameSize = 15

	return spelt(s, ifNameSize, alnum+"._-", alnum+"._-")
}

func isPVEPool(s string) bool {
	return strings.Count(s, "/") <= 2 && each(s, "/", func(part string) bool { return spelt(part, maxName, alnum+"._-", alnum+"._-") })
}

func isPVETag(s string) bool {
	return spelt(s, maxName, lowerAlnum+"_+.-", lowerAlnum+"_+.-") && strings.IndexByte("+.-", s[0]) < 0
}

// name checks an optional name and returns it, or the default.
func (c *checker) name(path string, value *string, valid func(string) bool, expected, byDefault string) string {
	name := or(value, byDefault)
	if value != nil && !valid(name) {
		c.reject(path, name, expected, "")
	}

	return name
}

// number checks an optional whole number against its bounds and returns it, or the default.
func (c *checker) number(path string, value *int, least, most, byDefault int, unit, suggestion string) int {
	n := or(value, byDefault)
	if value != nil && (n < least || n > most) {
		c.rejectInt(path, n, "a number "+unit+"from "+strconv.Itoa(least)+" to "+strconv.Itoa(most), suggestion)
	}

	return n
}

// toLabel turns a word into the DNS label it resembles, or "".
func toLabel(word string) string {
	label := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		default:
			return '-'
		}
	}, word)

	label = strings.Trim(label[:min(len(label), maxLabel)], "-")
	if !isDNSLabel(label) {
		return ""
	}

	return label
}

// isHost tells whether a string is an IP address or a DNS name. What looks like a mistyped IPv4 address is neither.
func isHost(host string) bool {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Zone() == ""
	}

	last := host[strings.LastIndexByte(strings.TrimSuffix(host, "."), '.')+1:]
	_, err := strconv.Atoi(strings.TrimSuffix(last, "."))

	return isDNSName(host) && err != nil
}

func isPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)

	return err == nil && n > 0
}

// hostPort tells whether a string is host:port.
func hostPort(value string) bool {
	host, port, err := net.SplitHostPort(value)

	return err == nil && isHost(host) && isPort(port)
}

// httpsURL checks the address of an HTTPS service without a path. With a port other than "", the address must name a port
// and this one is suggested.
func (c *checker) httpsURL(path, value, port string) *url.URL {
	expected := "an HTTPS address without a path"
	if port != "" {
		expected = "an HTTPS address with a port and without a path"
	}

	if at := strings.LastIndexByte(value, '@'); at >= 0 {
		// What stands before it may hold a password: never show it.
		c.reject(path, "…"+value[at:], expected+" and without a user", "remove the user name or password before the host (not shown)")

		return nil
	}

	u, err := url.Parse(value)

	if err == nil && u.Scheme == "https" && isHost(u.Hostname()) && (u.Path == "" || u.Path == "/") && u.RawQuery == "" &&
		!u.ForceQuery && u.Fragment == "" && !strings.HasSuffix(u.Host, ":") && (u.Port() == "" && port == "" || isPort(u.Port())) {
		return &url.URL{Scheme: "https", Host: u.Host}
	}

	c.reject(path, value, expected, write(toHTTPS(value, port)))

	return nil
}

// toHTTPS turns what resembles an address into an HTTPS one, or "".
func toHTTPS(value, port string) string {
	_, rest, found := strings.Cut(value, "://")
	if !found {
		rest = value
	}

	rest, _, _ = strings.Cut(rest, "/")
	rest, _, _ = strings.Cut(rest, "?")
	rest, _, _ = strings.Cut(rest, "#")

	u, err := url.Parse("https://" + rest)
	if err != nil || !isHost(u.Hostname()) || u.User != nil {
		return ""
	}

	if u.Port() != "" && !isPort(u.Port()) {
		u.Host = strings.TrimSuffix(u.Host, ":"+u.Port())
	}

	u.Host = strings.TrimSuffix(u.Host, ":")
	if u.Port() == "" && port != "" {
		u.Host += ":" + port
	}

	if u.String() == value {
		return ""
	}

	return u.String()
}
