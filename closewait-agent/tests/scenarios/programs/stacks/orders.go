// A server with a goroutine for each connection, and eight workers that wait for jobs.
//
// /order takes the lock of the ledger; after /audit, a goroutine has it and never releases it. /report asks the backend.
// /forget takes the connection over, answers and keeps it. Everything else is answered.
package main

import (
	"bufio"
	"log"
	"net"
	"net/http"
	"sync"
	"time"
)

var (
	ledger    sync.Mutex
	orders    int
	jobs      = make(chan func())
	mutex     sync.Mutex
	forgotten []net.Conn
)

func answer(writer http.ResponseWriter, text string) {
	// Without this, clients that wait would count as those of an idle connection.
	writer.Header().Set("Connection", "close")
	if _, err := writer.Write([]byte(text)); err != nil {
		log.Print(err)
	}
}

//go:noinline
func reserve() {
	ledger.Lock()
	defer ledger.Unlock()
	orders++
}

//go:noinline
func report() string {
	backend, err := net.Dial("tcp", "127.0.0.1:8081")
	if err != nil {
		log.Print(err)
		return "no\n"
	}
	defer backend.Close()
	if _, err := backend.Write([]byte("report\n")); err != nil {
		log.Print(err)
	}
	text, err := bufio.NewReader(backend).ReadString('\n')
	if err != nil {
		log.Print(err)
	}
	return text
}

func audit() {
	ledger.Lock()
	for {
		time.Sleep(1000 * time.Second)
	}
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

func work() {
	for job := range jobs {
		job()
	}
}

func main() {
	for i := 0; i < 8; i++ {
		go work()
	}
	http.HandleFunc("/order", func(writer http.ResponseWriter, _ *http.Request) {
		reserve()
		answer(writer, "ok\n")
	})
	http.HandleFunc("/report", func(writer http.ResponseWriter, _ *http.Request) { answer(writer, report()) })
	http.HandleFunc("/audit", func(writer http.ResponseWriter, _ *http.Request) {
		go audit()
		answer(writer, "ok\n")
	})
	http.HandleFunc("/forget", forget)
	http.HandleFunc("/", func(writer http.ResponseWriter, _ *http.Request) { answer(writer, "ok\n") })
	log.Fatal(http.ListenAndServe("127.0.0.1:8080", nil))
}
