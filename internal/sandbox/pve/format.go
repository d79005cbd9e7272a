package pve

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// The expressions of the formats that are checked by one.
var (
	configIDPattern  = regexp.MustCompile(`(?i)^[a-z][a-z0-9_-]+$`)
	storageIDPattern = regexp.MustCompile(`(?i)^[a-z][a-z0-9\-_.]*[a-z0-9]$`)
	bridgeIDPattern  = regexp.MustCompile(`^[-_.\w]+$`)
	vmidPattern      = regexp.MustCompile(`^[1-9][0-9]{2,8}$`)
	nodePattern      = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9\-]*[a-zA-Z0-9])?$`)
	poolPattern      = regexp.MustCompile(`^[A-Za-z0-9.\-_]+(?:/[A-Za-z0-9.\-_]+){0,2}$`)
	macPattern       = regexp.MustCompile(`(?i)^[a-f0-9][02468ace](?::[a-f0-9]{2}){5}$`)
	dnsNamePattern   = regexp.MustCompile(`^([a-zA-Z0-9]([a-zA-Z0-9\-]*[a-zA-Z0-9])?\.)*[a-zA-Z0-9]([a-zA-Z0-9\-]*[a-zA-Z0-9])?$`)
	ifacePattern     = regexp.MustCompile(`(?i)^[a-z][a-z0-9_]{1,20}([:.]\d+)?$`)
	tagPattern       = regexp.MustCompile(`(?i)^[a-z0-9_][a-z0-9_\-+.]*$`)
	urlPattern       = regexp.MustCompile(`^[-%a-zA-Z0-9_.!~*'()]*$`)
	startupPattern   = regexp.MustCompile(`^(?:(?:order=)?\d+|up=\d+|down=\d+)$`)
	hotplugPattern   = regexp.MustCompile(`^(?:network|disk|cpu|memory|usb|cloudinit)$`)
	cpusetPattern    = regexp.MustCompile(`^\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*$`)
	volumePattern    = regexp.MustCompile(`(?i)^([a-z][a-z0-9\-_.]*[a-z0-9]):(.+)$`)
	drivePattern     = regexp.MustCompile(`^(?:ide[0-3]|sata[0-5]|scsi(?:[12]?\d|30)|virtio(?:\d|1[0-5])|efidisk0|tpmstate0)$`)
	bootDevPattern   = regexp.MustCompile(`^(?:net(?:[12]?\d|3[01])|usb(?:\d|1[0-3])|hostpci(?:\d|1[0-5]))$`)
	taskStatePattern = regexp.MustCompile(`(?i)^(?:ok|error|warning|unknown)$`)
	contentPattern   = regexp.MustCompile(`^(?:images|rootdir|vztmpl|iso|backup|snippets|import|none)$`)
)

// checkNamedFormat checks one value; the messages are Proxmox's.
func checkNamedFormat(name, text string) error {
	switch name {
	case "urlencoded":
		return expect(urlPattern, text, "invalid urlencoded string: %s", text)
	case "pve-configid":
		return expect(configIDPattern, text, "invalid configuration ID '%s'", text)
	case "pve-storage-id":
		return expect(storageIDPattern, text, "storage ID '%s' contains illegal characters", text)
	case "pve-bridge-id":
		return expect(bridgeIDPattern, text, "invalid bridge ID '%s'", text)
	case "pve-vmid":
		return expect(vmidPattern, text, "value does not look like a valid VM ID")
	case "pve-node":
		return expect(nodePattern, text, "value does not look like a valid node name")
	case "pve-poolid":
		return expect(poolPattern, text, "pool name '%s' contains invalid characters", text)
	case "mac-addr":
		return expect(macPattern, text, "value does not look like a valid unicast MAC address")
	case "dns-name":
		return expect(dnsNamePattern, text, "value does not look like a valid DNS name")
	case "pve-iface":
		return expect(ifacePattern, text, "invalid network interface name '%s'", text)
	case "pve-tag":
		return expect(tagPattern, text, "invalid characters in tag")
	case "pve-cpuset":
		return expect(cpusetPattern, text, "unable to parse cpuset option")
	case "pve-qm-bootdisk":
		return expect(drivePattern, text, "invalid boot disk '%s'", text)
	case "pve-task-status-type":
		return expect(taskStatePattern, text, "invalid status '%s'", text)
	case "pve-storage-content":
		return expect(contentPattern, text, "invalid content type '%s'", text)
	case "pve-volume-id":
		return expect(volumePattern, text, "unable to parse volume ID '%s'", text)
	}
	return checkStructuredFormat(name, text)
}

func checkStructuredFormat(name, text string) error {
	switch name {
	case "pve-volume-id-or-qm-path":
		if text == "none" || text == "cdrom" {
			return nil
		}
		return checkNamedFormat("pve-volume-id-or-absolute-path", text)
	case "pve-volume-id-or-absolute-path":
		if strings.HasPrefix(text, "/") {
			return nil
		}
		return checkNamedFormat("pve-volume-id", text)
	case "pve-qm-bootdev":
		if bootDevPattern.MatchString(text) || drivePattern.MatchString(text) && !isStateDrive(text) {
			return nil
		}
		return fmt.Errorf("invalid boot device '%s'", text)
	case "disk-size":
		_, err := parseSize(text)
		return err
	case "pve-startup-order":
		for part := range strings.SplitSeq(text, ",") {
			if strings.TrimSpace(part) != "" && !startupPattern.MatchString(part) {
				return fmt.Errorf("unable to parse startup options")
			}
		}
		return nil
	case "pve-hotplug-features":
		if text == "0" || text == "1" {
			return nil
		}
		for _, feature := range splitList(text) {
			if !hotplugPattern.MatchString(feature) {
				return fmt.Errorf("invalid hotplug feature '%s'", feature)
			}
		}
		return nil
	case "storage-pair":
		return nil
	}
	return checkNetworkFormat(name, text)
}

func checkNetworkFormat(name, text string) error {
	address, addressErr := netip.ParseAddr(text)
	prefix, prefixErr := netip.ParsePrefix(text)
	ok := true
	switch name {
	case "ipv4":
		ok = addressErr == nil && address.Is4()
	case "ipv6":
		ok = addressErr == nil && address.Is6()
	case "address":
		ok = addressErr == nil || dnsNamePattern.MatchString(text)
	case "CIDR":
		ok = prefixErr == nil
	case "CIDRv4":
		ok = prefixErr == nil && prefix.Addr().Is4()
	case "CIDRv6":
		ok = prefixErr == nil && prefix.Addr().Is6()
	case "pve-ipv4-config":
		ok = text == "dhcp" || text == "manual" || prefixErr == nil && prefix.Addr().Is4()
	case "pve-ipv6-config":
		ok = text == "dhcp" || text == "auto" || text == "manual" || prefixErr == nil && prefix.Addr().Is6()
	}
	if ok {
		// Formats of methods that are not simulated are not checked further.
		return nil
	}
	return fmt.Errorf("value does not look like a valid %s: %s", name, strconv.Quote(text))
}

func expect(pattern *regexp.Regexp, text, message string, args ...any) error {
	if pattern.MatchString(text) {
		return nil
	}
	return fmt.Errorf(message, args...)
}

func isDrive(option string) bool { return drivePattern.MatchString(option) }

func isStateDrive(option string) bool { return option == "efidisk0" || option == "tpmstate0" }
