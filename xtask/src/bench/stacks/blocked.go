// The same as blocked.c, with goroutines.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
)

var lock sync.Mutex

//go:noinline
func reserve() {
	lock.Lock()
	lock.Unlock()
}

func serve() { reserve() }

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	goroutines, err := strconv.Atoi(os.Args[1])
	check(err)
	// Probes of a connection whose client is gone would end it.
	config := net.ListenConfig{KeepAlive: -1}
	listener, err := config.Listen(context.Background(), "tcp", "127.79.0."+os.Args[2]+":0")
	check(err)
	client, err := net.Dial("tcp", listener.Addr().String())
	check(err)
	server, err := listener.Accept()
	check(err)
	client.Close()
	lock.Lock()
	for number := 1; number < goroutines; number++ {
		go serve()
	}
	// Waits for connections, so that the runtime does not report a deadlock.
	go listener.Accept()
	fmt.Println("ready")
	reserve()
	server.Close()
}
