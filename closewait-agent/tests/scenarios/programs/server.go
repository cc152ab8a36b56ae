// An HTTP server: /forget takes the connection over, answers and forgets it; /body sends 40 kB and closes;
// /slow answers after 22 s.
package main

import (
	"bytes"
	"log"
	"net"
	"net/http"
	"sync"
	"time"
)

var (
	mutex     sync.Mutex
	forgotten []net.Conn
)

func answer(writer http.ResponseWriter, _ *http.Request) {
	if _, err := writer.Write([]byte("ok\n")); err != nil {
		log.Print(err)
	}
}

func slow(writer http.ResponseWriter, request *http.Request) {
	time.Sleep(22 * time.Second)
	answer(writer, request)
}

func forget(writer http.ResponseWriter, _ *http.Request) {
	connection, _, err := writer.(http.Hijacker).Hijack()
	if err != nil {
		log.Fatal(err)
	}
	if _, err := connection.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")); err != nil {
		log.Print(err)
	}
	// Still referred to, or else the garbage collector would close it.
	mutex.Lock()
	forgotten = append(forgotten, connection)
	mutex.Unlock()
}

func body(writer http.ResponseWriter, _ *http.Request) {
	writer.Header().Set("Connection", "close")
	if _, err := writer.Write(bytes.Repeat([]byte("x"), 40000)); err != nil {
		log.Print(err)
	}
}

func main() {
	http.HandleFunc("/", answer)
	http.HandleFunc("/forget", forget)
	http.HandleFunc("/body", body)
	http.HandleFunc("/slow", slow)
	log.Fatal(http.ListenAndServe("127.0.0.1:8080", nil))
}
