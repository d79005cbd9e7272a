package config

import (
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

var (
	dnsLabel = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	dnsName  = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.?$`)
	// What follows is what Proxmox VE accepts.
	pveNode    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
	pveStorage = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]$`)
	pveBridge  = regexp.MustCompile(`^[A-Za-z0-9._-]{1,15}$`)
	pvePool    = regexp.MustCompile(`^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+){0,2}$`)
	pveTag     = regexp.MustCompile(`^[a-z0-9_][a-z0-9_+.-]*$`)
)

// name checks an optional name against a pattern and returns it, or the default.
func (c *checker) name(path string, value *string, pattern *regexp.Regexp, expected, byDefault string) string {
	name := or(value, byDefault)
	if value != nil && !pattern.MatchString(name) {
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

	label = strings.Trim(label[:min(len(label), 63)], "-")
	if !dnsLabel.MatchString(label) {
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

	return len(host) <= 253 && dnsName.MatchString(host) && err != nil
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
