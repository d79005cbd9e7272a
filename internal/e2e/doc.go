// Package e2e tests Cloudlab as a whole: the sandbox's command drives the real Pulumi engine and the real providers, in processes of
// their own, against simulated hardware that runs inside the test, where it can be inspected and disturbed.
//
// It needs the tool chain, which it builds on first use; -short skips everything.
package e2e
