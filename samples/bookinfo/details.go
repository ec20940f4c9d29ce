// SPDX-License-Identifier: Apache-2.0

package bookinfo

import (
	"fmt"
	"net/http"
)

type details struct {
	ID        int    `json:"id"`
	Author    string `json:"author"`
	Year      int    `json:"year"`
	Type      string `json:"type"`
	Pages     int    `json:"pages"`
	Publisher string `json:"publisher"`
	Language  string `json:"language"`
	ISBN10    string `json:"ISBN-10"`
	ISBN13    string `json:"ISBN-13"`
}

// editions by version. v2 tells of another edition of the play, so that a
// reader sees which version answered.
var editions = map[string]details{
	"v1": {
		Author: "William Shakespeare", Year: 1595, Type: "paperback", Pages: 200,
		Publisher: "PublisherA", Language: "English", ISBN10: "1234567890", ISBN13: "123-1234567890",
	},
	"v2": {
		Author: "William Shakespeare", Year: 2005, Type: "hardcover", Pages: 224,
		Publisher: "PublisherB", Language: "English", ISBN10: "0987654321", ISBN13: "123-0987654321",
	},
}

// newDetails serves GET /details/{id} and /health.
func newDetails(version string) (http.Handler, error) {
	edition, ok := editions[or(version, "v1")]
	if !ok {
		return nil, fmt.Errorf("details has no version %q: have v1, v2", version)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", healthy("Details"))
	mux.HandleFunc("GET /details/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, ok := productID(w, r)
		if !ok {
			return
		}
		d := edition
		d.ID = id
		writeJSON(w, http.StatusOK, d)
	})
	return mux, nil
}
