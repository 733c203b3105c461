package main

import (
	"bytes"
	"crypto/rsa"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"

	"github.com/fsouza/fake-gcs-server/fakestorage"
)

type front struct {
	store *fakestorage.Server
	key   *rsa.PublicKey
	page  int

	lock    sync.Mutex
	uploads map[string]*upload
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !isSigned(r.Header.Get("Authorization"), f.key) {
		refuse(w, http.StatusUnauthorized, "AuthenticationRequired", "Authentication required.")
		return
	}
	bucket, object, _ := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
	bucket, _ = url.PathUnescape(bucket)
	object, _ = url.PathUnescape(object)
	if f.ask(r, http.MethodGet, "/storage/v1/b/"+url.PathEscape(bucket), nil).Code != http.StatusOK {
		refuse(w, http.StatusNotFound, "NoSuchBucket", "The specified bucket does not exist.")
		return
	}
	query := r.URL.Query()
	switch {
	case object == "" && r.Method == http.MethodGet:
		f.list(w, bucket, query)
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		f.read(w, r, bucket, object)
	case r.Method == http.MethodPost && query.Has("uploads"):
		f.begin(w, r, bucket, object)
	case r.Method == http.MethodPut && query.Has("uploadId"):
		f.part(w, r, query)
	case r.Method == http.MethodPost && query.Has("uploadId"):
		f.complete(w, r, query.Get("uploadId"))
	case r.Method == http.MethodDelete && query.Has("uploadId"):
		f.abort(w, query.Get("uploadId"))
	case r.Method == http.MethodPut:
		content, err := io.ReadAll(r.Body)
		if err != nil {
			refuse(w, http.StatusBadRequest, "IncompleteBody", err.Error())
			return
		}
		f.write(w, r, bucket, object, content, r.Header.Get("x-goog-if-generation-match"))
	case r.Method == http.MethodDelete:
		f.remove(w, r, bucket, object)
	default:
		refuse(w, http.StatusMethodNotAllowed, "MethodNotAllowed", r.Method)
	}
}

// Asks fake-gcs-server's JSON API.
func (f *front) ask(r *http.Request, method, target string, content []byte) *httptest.ResponseRecorder {
	inner := httptest.NewRequestWithContext(r.Context(), method, "http://"+r.Host+target, bytes.NewReader(content))
	inner.Header.Set("Content-Type", r.Header.Get("Content-Type"))
	answer := httptest.NewRecorder()
	f.store.HTTPHandler().ServeHTTP(answer, inner)
	return answer
}

func objectTarget(bucket, object string) string {
	return "/storage/v1/b/" + url.PathEscape(bucket) + "/o/" + url.PathEscape(object)
}

func (f *front) read(w http.ResponseWriter, r *http.Request, bucket, object string) {
	inner := r.Clone(r.Context())
	inner.Header.Del("Authorization")
	target := "/download" + objectTarget(bucket, object)
	inner.URL, _ = url.Parse("http://" + r.Host + target)
	inner.RequestURI = target
	answer := httptest.NewRecorder()
	f.store.HTTPHandler().ServeHTTP(answer, inner)
	if answer.Code == http.StatusNotFound {
		refuse(w, http.StatusNotFound, "NoSuchKey", "The specified key does not exist.")
		return
	}
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

// Writes a whole object; `generation` is the one that it must have before, 0 for none, empty for any.
func (f *front) write(w http.ResponseWriter, r *http.Request, bucket, object string, content []byte, generation string) string {
	query := url.Values{"uploadType": {"media"}, "name": {object}}
	if generation != "" {
		query.Set("ifGenerationMatch", generation)
	}
	target := "/upload/storage/v1/b/" + url.PathEscape(bucket) + "/o?" + query.Encode()
	answer := f.ask(r, http.MethodPost, target, content)
	if answer.Code == http.StatusPreconditionFailed {
		refuse(w, answer.Code, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold.")
		return ""
	}
	var made struct{ Etag, Generation string }
	if answer.Code != http.StatusOK || json.Unmarshal(answer.Body.Bytes(), &made) != nil {
		refuse(w, http.StatusInternalServerError, "InternalError", answer.Body.String())
		return ""
	}
	w.Header().Set("ETag", fmt.Sprintf("%q", strings.Trim(made.Etag, `"`)))
	w.Header().Set("x-goog-generation", made.Generation)
	return made.Etag
}

func (f *front) remove(w http.ResponseWriter, r *http.Request, bucket, object string) {
	answer := f.ask(r, http.MethodDelete, objectTarget(bucket, object), nil)
	if answer.Code == http.StatusNotFound {
		refuse(w, answer.Code, "NoSuchKey", "The specified key does not exist.")
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	answer(w, status, struct {
		XMLName xml.Name `xml:"Error"`
		Code    string
		Message string
	}{Code: code, Message: message})
}

func answer(w http.ResponseWriter, status int, content any) {
	w.Header().Set("Content-Type", "application/xml; charset=UTF-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, xml.Header)
	_ = xml.NewEncoder(w).Encode(content)
}
