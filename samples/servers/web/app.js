// SPDX-License-Identifier: Apache-2.0
"use strict";

const state = document.getElementById("state");
const log = document.getElementById("log");
const message = document.getElementById("message");
const address = new URL("ws", location.href);
address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
let socket;

function connect() {
  socket = new WebSocket(address);
  socket.onopen = () => { state.textContent = "connected"; state.className = "on"; };
  socket.onclose = () => {
    state.textContent = "not connected, trying again …";
    state.className = "";
    setTimeout(connect, 2000);
  };
  socket.onmessage = (event) => {
    const line = document.createElement("li");
    line.textContent = event.data;
    log.prepend(line);
    while (log.children.length > 100) log.lastChild.remove();
  };
}

document.getElementById("say").addEventListener("submit", (event) => {
  event.preventDefault();
  if (message.value && socket.readyState === WebSocket.OPEN) {
    socket.send(message.value);
    message.value = "";
  }
});

connect();
