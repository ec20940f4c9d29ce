// SPDX-License-Identifier: Apache-2.0

package bookinfo

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"
)

// sessions remembers who signed in, in a cookie signed with a key that lives
// as long as the process. There are no passwords: whoever types a name is
// that user, which is what the routing examples want. The signature only
// keeps a hand-made cookie from becoming a header.
type sessions struct{ key []byte }

const cookieName = "session"

func newSessions() sessions {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // documented never to fail
	return sessions{key}
}

func (s sessions) sign(user string) string {
	m := hmac.New(sha256.New, s.key)
	m.Write([]byte(user))
	e := base64.RawURLEncoding
	return e.EncodeToString([]byte(user)) + "." + e.EncodeToString(m.Sum(nil))
}

// user returns the signed-in name, or "".
func (s sessions) user(r *http.Request) string {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return ""
	}
	name, _, _ := strings.Cut(c.Value, ".")
	b, err := base64.RawURLEncoding.DecodeString(name)
	if err != nil || !hmac.Equal([]byte(s.sign(string(b))), []byte(c.Value)) {
		return ""
	}
	return string(b)
}

// in signs in the posted username. Names go into a header, so only printable
// ASCII of a sensible length is one.
func (s sessions) in(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	user := strings.TrimSpace(r.PostFormValue("username"))
	odd := func(c rune) bool { return c >= utf8.RuneSelf || !unicode.IsPrint(c) }
	if user == "" || len(user) > 64 || strings.ContainsFunc(user, odd) {
		http.Error(w, "please type a name of 1 to 64 plain letters", http.StatusBadRequest)
		return
	}
	http.SetCookie(w, &http.Cookie{Name: cookieName, Value: s.sign(user), Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
	redirect(w, "/productpage")
}

func (s sessions) out(w http.ResponseWriter, _ *http.Request) {
	http.SetCookie(w, &http.Cookie{Name: cookieName, Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteLaxMode})
	redirect(w, "/productpage")
}

// redirect sends a path only: the page may be behind any gateway name and port.
func redirect(w http.ResponseWriter, to string) {
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusFound)
}
