package main

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

const email = "archive@matriarch-test.iam.gserviceaccount.com"

// The file of a service account, as Google's console gives it out.
type accountFile struct {
	Type         string `json:"type"`
	ProjectID    string `json:"project_id"`
	PrivateKeyID string `json:"private_key_id"`
	PrivateKey   string `json:"private_key"`
	ClientEmail  string `json:"client_email"`
	ClientID     string `json:"client_id"`
	TokenURI     string `json:"token_uri"`
}

// Reads the account's key, or makes one and writes the file.
func accountKey(path string) (*rsa.PrivateKey, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return newAccount(path)
	}
	if err != nil {
		return nil, err
	}
	var file accountFile
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(file.PrivateKey))
	if block == nil {
		return nil, fmt.Errorf("%s holds no private key", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	return key.(*rsa.PrivateKey), nil
}

func newAccount(path string) (*rsa.PrivateKey, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(accountFile{
		Type: "service_account", ProjectID: "matriarch-test", PrivateKeyID: "1", ClientEmail: email, ClientID: "1",
		PrivateKey: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		TokenURI:   "https://oauth2.googleapis.com/token",
	}, "", "  ")
	if err != nil {
		return nil, err
	}
	// In one go: who waits for the file must not read half of it.
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return nil, err
	}
	return key, os.Rename(path+".new", path)
}

// Whether a request's token is one that the account has signed, and still good.
func isSigned(authorization string, key *rsa.PublicKey) bool {
	token, found := strings.CutPrefix(authorization, "Bearer ")
	parts := strings.Split(token, ".")
	if !found || len(parts) != 3 {
		return false
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return false
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return false
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature) != nil {
		return false
	}
	var said struct {
		Issuer  string `json:"iss"`
		Scope   string `json:"scope"`
		Expires int64  `json:"exp"`
	}
	return json.Unmarshal(claims, &said) == nil && said.Issuer == email && said.Scope != "" && said.Expires > time.Now().Unix()
}
