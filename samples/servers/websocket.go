// SPDX-License-Identifier: Apache-2.0

package servers

import (
	"embed"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/websocket"
)

//go:embed web
var web embed.FS

// Bounds of the hub.
const (
	maxSockets = 1000
	maxMessage = 64 << 10
	queued     = 64 // messages to one socket
	socketIdle = 2 * time.Hour
	socketSend = 10 * time.Second
)

// Hub is the server of the websockets sample: GET / is a page, /ws a WebSocket
// on which every message is sent to every open socket, the sender's included,
// and GET /api?id=ID&value=VALUE sends {"id":ID,"value":VALUE} to them all.
type Hub struct {
	mux     *http.ServeMux
	mu      sync.Mutex
	closed  bool
	sockets map[*websocket.Conn]chan string
	open    sync.WaitGroup
}

// NewHub returns a hub without sockets.
func NewHub() *Hub {
	h := &Hub{mux: http.NewServeMux(), sockets: map[*websocket.Conn]chan string{}}
	// No check of the origin: the sample is reached by any gateway's name.
	h.mux.Handle("GET /ws", websocket.Server{Handler: h.socket})
	h.mux.HandleFunc("GET /api", h.api)
	for path, file := range map[string]string{"GET /{$}": "web/index.html", "GET /app.js": "web/app.js", "GET /style.css": "web/style.css"} {
		h.mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'")
			w.Header().Set("X-Content-Type-Options", "nosniff")
			http.ServeFileFS(w, r, web, file)
		})
	}
	return h
}

func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

// Close closes every socket and waits for its end; new ones are refused.
func (h *Hub) Close() {
	h.mu.Lock()
	h.closed = true
	for ws, queue := range h.sockets {
		h.drop(ws, queue)
	}
	h.mu.Unlock()
	h.open.Wait()
}

// drop ends a socket: its writer sends what is queued and closes. h.mu is held.
func (h *Hub) drop(ws *websocket.Conn, queue chan string) {
	delete(h.sockets, ws)
	close(queue)
}

// socket serves one WebSocket until either side ends it.
func (h *Hub) socket(ws *websocket.Conn) {
	ws.MaxPayloadBytes = maxMessage
	queue := make(chan string, queued)
	h.mu.Lock()
	if h.closed || len(h.sockets) >= maxSockets {
		h.mu.Unlock()
		_ = ws.WriteClose(1013) // try again later (RFC 6455 section 7.4, IANA's registry)
		return
	}
	h.sockets[ws] = queue
	h.open.Add(1)
	h.mu.Unlock()
	defer h.open.Done()

	written := make(chan struct{})
	go func() {
		defer close(written)
		for m := range queue {
			_ = ws.SetWriteDeadline(time.Now().Add(socketSend))
			if websocket.Message.Send(ws, m) != nil {
				break
			}
		}
		_ = ws.SetWriteDeadline(time.Now().Add(socketSend))
		_ = ws.WriteClose(1001) // going away
		_ = ws.Close()          // wakes the reader
	}()
	for {
		var m string
		_ = ws.SetReadDeadline(time.Now().Add(socketIdle))
		if websocket.Message.Receive(ws, &m) != nil {
			break
		}
		h.broadcast(m)
	}
	h.mu.Lock()
	if q, ok := h.sockets[ws]; ok {
		h.drop(ws, q)
	}
	h.mu.Unlock()
	<-written
}

// broadcast queues m for every socket. One that does not keep up is dropped: a
// queue that grows would let one reader take the server's memory.
func (h *Hub) broadcast(m string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for ws, queue := range h.sockets {
		select {
		case queue <- m:
		default:
			h.drop(ws, queue)
		}
	}
}

func (h *Hub) api(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if !q.Has("id") || !q.Has("value") {
		http.Error(w, "give id and value, as in /api?id=1&value=on", http.StatusBadRequest)
		return
	}
	b, err := json.Marshal(struct {
		ID    string `json:"id"`
		Value string `json:"value"`
	}{q.Get("id"), q.Get("value")})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	h.broadcast(string(b))
	w.WriteHeader(http.StatusOK)
}
