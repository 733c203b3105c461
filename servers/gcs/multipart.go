package main

import (
	"crypto/md5"
	"crypto/rand"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

// The least that every part but the last must have.
const leastPart = 5 << 20

type upload struct {
	bucket, object string
	parts          map[int][]byte
}

func (f *front) begin(w http.ResponseWriter, _ *http.Request, bucket, object string) {
	id := rand.Text()
	f.lock.Lock()
	f.uploads[id] = &upload{bucket: bucket, object: object, parts: map[int][]byte{}}
	f.lock.Unlock()
	answer(w, http.StatusOK, struct {
		XMLName               xml.Name `xml:"InitiateMultipartUploadResult"`
		Bucket, Key, UploadId string
	}{Bucket: bucket, Key: object, UploadId: id})
}

func partTag(content []byte) string {
	sum := md5.Sum(content)
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

func (f *front) part(w http.ResponseWriter, r *http.Request, query url.Values) {
	number, err := strconv.Atoi(query.Get("partNumber"))
	if err != nil || number < 1 || number > 10000 {
		refuse(w, http.StatusBadRequest, "InvalidArgument", "partNumber must be 1 to 10000")
		return
	}
	content, err := io.ReadAll(r.Body)
	if err != nil {
		refuse(w, http.StatusBadRequest, "IncompleteBody", err.Error())
		return
	}
	f.lock.Lock()
	begun := f.uploads[query.Get("uploadId")]
	if begun != nil {
		begun.parts[number] = content
	}
	f.lock.Unlock()
	if begun == nil {
		noUpload(w)
		return
	}
	w.Header().Set("ETag", partTag(content))
}

func (f *front) complete(w http.ResponseWriter, r *http.Request, id string) {
	var wanted struct {
		Part []struct {
			PartNumber int
			ETag       string
		}
	}
	if err := xml.NewDecoder(r.Body).Decode(&wanted); err != nil {
		refuse(w, http.StatusBadRequest, "MalformedCompleteMultipartUploadRequest", err.Error())
		return
	}
	f.lock.Lock()
	begun := f.uploads[id]
	f.lock.Unlock()
	if begun == nil {
		noUpload(w)
		return
	}
	var whole []byte
	for i, part := range wanted.Part {
		content, there := begun.parts[part.PartNumber]
		if !there || partTag(content) != part.ETag {
			refuse(w, http.StatusBadRequest, "InvalidPart", fmt.Sprintf("part %d is not there as told", part.PartNumber))
			return
		}
		if i+1 < len(wanted.Part) && len(content) < leastPart {
			refuse(w, http.StatusBadRequest, "EntityTooSmall", fmt.Sprintf("part %d is below 5 MiB", part.PartNumber))
			return
		}
		whole = append(whole, content...)
	}
	tag := f.write(w, r, begun.bucket, begun.object, whole, "")
	if tag == "" {
		return
	}
	f.lock.Lock()
	delete(f.uploads, id)
	f.lock.Unlock()
	answer(w, http.StatusOK, struct {
		XMLName           xml.Name `xml:"CompleteMultipartUploadResult"`
		Bucket, Key, ETag string
	}{Bucket: begun.bucket, Key: begun.object, ETag: tag})
}

func (f *front) abort(w http.ResponseWriter, id string) {
	f.lock.Lock()
	_, there := f.uploads[id]
	delete(f.uploads, id)
	f.lock.Unlock()
	if !there {
		noUpload(w)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func noUpload(w http.ResponseWriter) {
	refuse(w, http.StatusNotFound, "NoSuchUpload", "The requested upload was not found.")
}
