// A server that speaks Google Cloud Storage's XML API, as far as the archive uses it, in front of fake-gcs-server, which keeps
// the objects and decides about their generations.
//
// fake-gcs-server answers the JSON API; Google's XML API, which the archive's client speaks, it has for reading alone. What is
// here translates conditional and plain uploads, multipart uploads, lists and deletes, and asks for a token that the one
// service account has signed. It writes that account's file when it starts: the key is made then and is worth nothing elsewhere.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/fsouza/fake-gcs-server/fakestorage"
)

func main() {
	address := flag.String("listen", "127.0.0.1:4443", "address and port")
	root := flag.String("root", "", "folder of the objects")
	bucket := flag.String("bucket", "", "bucket that is made")
	account := flag.String("account", "", "where the file of the service account lies; written unless it is there")
	page := flag.Int("page", 1000, "names that a list tells at a time")
	version := flag.Bool("version", false, "say what this is")
	flag.Parse()
	if *version {
		fmt.Println("matriarch.test/servers/gcs")
		return
	}
	if err := serve(*address, *root, *bucket, *account, *page); err != nil {
		log.Fatal(err)
	}
}

func serve(address, root, bucket, account string, page int) error {
	key, err := accountKey(account)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(root, bucket), 0o700); err != nil {
		return err
	}
	store, err := fakestorage.NewServerWithOptions(fakestorage.Options{
		NoListener: true, StorageRoot: root, Scheme: "http", PublicHost: address, ExternalURL: "http://" + address,
	})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	front := &front{store: store, key: &key.PublicKey, page: page, uploads: map[string]*upload{}}
	return http.Serve(listener, front)
}
