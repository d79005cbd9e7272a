// Package sopsfile reads and writes files encrypted with SOPS and age, in process, by the creation rules of .sops.yaml.
//
// [Decrypt] and [ReadSecrets] turn an encrypted file into plaintext, [Write] turns plaintext into an encrypted file
// and leaves the file alone when it already says the same, [CheckEncrypted] and [Scan] recognise content that must not
// be stored in clear.
//
// Boundary: age recipients only (X25519, hybrid post-quantum and plugins; no SSH keys, PGP or cloud KMS), YAML and JSON
// only, local files only. The package knows no Pulumi and no provider, reads no environment variable except in
// [FromEnvironment], and prints nothing. Its errors never contain plaintext or private keys.
package sopsfile
