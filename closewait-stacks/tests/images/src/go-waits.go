// Goroutines that wait in many ways.
package main

import (
	"fmt"
	"os"
	"sync"
	"time"
)

type pool struct {
	free chan *link
}

type link struct{}

// get takes a connection; inlined into its callers.
func (p *pool) get() *link {
	return <-p.free
}

func query(p *pool) {
	one := p.get()
	defer func() { p.free <- one }()
	time.Sleep(time.Hour)
}

//go:noinline
func depth(n int, then func()) int {
	if n == 0 {
		then()
		return 0
	}
	return depth(n-1, then) + n
}

type shop struct {
	sync.RWMutex
	done sync.WaitGroup
	cond *sync.Cond
}

func (s *shop) read() {
	s.RLock()
	defer s.RUnlock()
}

func (s *shop) write() {
	s.Lock()
	defer s.Unlock()
}

func spin(flag *int) {
	for n := 0; ; n++ {
		*flag = n
	}
}

func panics(wait chan int) {
	defer func() {
		recover()
		<-wait
	}()
	var none *shop
	none.cond.L = nil
}

func main() {
	connections := &pool{free: make(chan *link, 1)}
	connections.free <- &link{}
	for i := 0; i < 3; i++ {
		go query(connections)
	}
	time.Sleep(20 * time.Millisecond)

	s := &shop{}
	s.cond = sync.NewCond(&sync.Mutex{})
	s.RLock()
	go s.write()
	time.Sleep(20 * time.Millisecond)
	go s.read()
	s.done.Add(1)
	go s.done.Wait()
	go func() {
		s.cond.L.Lock()
		s.cond.Wait()
	}()

	wait := make(chan int)
	go depth(5, func() {
		select {
		case <-wait:
		case wait <- 1:
		}
	})
	go panics(make(chan int))

	reader, _, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	// A blocking descriptor: the goroutine stays in its system call.
	blocking := os.NewFile(reader.Fd(), "pipe")
	go blocking.Read(make([]byte, 1))
	go depth(200, func() { select {} })

	if len(os.Args) > 1 {
		go spin(new(int))
	}
	time.Sleep(50 * time.Millisecond)
	fmt.Println("ready")
	s.Lock()
}
