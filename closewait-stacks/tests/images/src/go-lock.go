// A server whose requests wait for a lock, while the one that holds it reads from a backend that never answers.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

var stock sync.Mutex

// checkout holds the lock while it reads from the backend.
func checkout(backend string) error {
	stock.Lock()
	defer stock.Unlock()
	connection, err := net.Dial("tcp", backend)
	if err != nil {
		return err
	}
	defer connection.Close()
	reply := make([]byte, 16)
	_, err = io.ReadFull(connection, reply)
	return err
}

func serve(backend string) http.HandlerFunc {
	return func(to http.ResponseWriter, request *http.Request) {
		if request.URL.Path == "/idle" {
			fmt.Fprintln(to, "ok")
			return
		}
		if err := checkout(backend); err != nil {
			http.Error(to, err.Error(), http.StatusBadGateway)
		}
	}
}

// idle keeps an answered connection open.
func idle(address string) {
	connection, err := net.Dial("tcp", address)
	if err != nil {
		panic(err)
	}
	fmt.Fprint(connection, "GET /idle HTTP/1.1\r\nHost: localhost\r\n\r\n")
	buffer := make([]byte, 4096)
	if _, err := connection.Read(buffer); err != nil {
		panic(err)
	}
	kept = append(kept, connection)
}

// ask sends a request, and never reads its answer.
func ask(address string) {
	connection, err := net.Dial("tcp", address)
	if err != nil {
		panic(err)
	}
	fmt.Fprint(connection, "GET /checkout HTTP/1.1\r\nHost: localhost\r\n\r\n")
	kept = append(kept, connection)
}

var kept []net.Conn

func main() {
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go http.Serve(listener, serve(backend.Addr().String()))
	for i := 0; i < 2; i++ {
		idle(listener.Addr().String())
	}
	requests := 4
	if len(os.Args) > 1 {
		fmt.Sscan(os.Args[1], &requests)
	}
	for i := 0; i < requests; i++ {
		ask(listener.Addr().String())
		time.Sleep(5 * time.Millisecond)
	}
	fmt.Println("ready")
	select {}
}
