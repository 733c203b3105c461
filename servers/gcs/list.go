package main

import (
	"encoding/xml"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/fsouza/fake-gcs-server/fakestorage"
)

type listed struct {
	Key          string
	Size         int64
	LastModified string
	ETag         string
}

type prefix struct{ Prefix string }

type listAnswer struct {
	XMLName               xml.Name `xml:"ListBucketResult"`
	IsTruncated           bool
	NextContinuationToken string `xml:",omitempty"`
	Contents              []listed
	CommonPrefixes        []prefix
}

// Objects and, with a delimiter, folders, in the order of their names; the token is the last name of the page before.
func (f *front) list(w http.ResponseWriter, bucket string, query url.Values) {
	options := fakestorage.ListOptions{Prefix: query.Get("prefix"), Delimiter: query.Get("delimiter")}
	objects, folders, err := f.store.ListObjectsWithOptions(bucket, options)
	if err != nil {
		refuse(w, http.StatusInternalServerError, "InternalError", err.Error())
		return
	}
	after := max(query.Get("start-after"), query.Get("continuation-token"))
	byName := map[string]*fakestorage.ObjectAttrs{}
	var names []string
	for i := range objects {
		byName[objects[i].Name] = &objects[i]
		names = append(names, objects[i].Name)
	}
	names = append(names, folders...)
	names = slices.DeleteFunc(names, func(name string) bool { return name <= after })
	slices.Sort(names)
	var found listAnswer
	if len(names) > f.page {
		names = names[:f.page]
		found.IsTruncated, found.NextContinuationToken = true, names[f.page-1]
	}
	for _, name := range names {
		object := byName[name]
		if object == nil {
			found.CommonPrefixes = append(found.CommonPrefixes, prefix{name})
			continue
		}
		etag := `"` + strings.Trim(object.Etag, `"`) + `"`
		found.Contents = append(found.Contents, listed{name, object.Size, object.Updated.UTC().Format(time.RFC3339Nano), etag})
	}
	answer(w, http.StatusOK, found)
}
