// A goroutine in C code, and one that waits for a lock in Go code that C code called.
package main

/*
#include <unistd.h>
static void block(void) { sleep(3600); }
extern void goCallback(void);
static void call(void) { goCallback(); }
*/
import "C"
import (
	"fmt"
	"sync"
	"time"
)

var mu sync.Mutex

//export goCallback
func goCallback() { mu.Lock() }

func main() {
	mu.Lock()
	go func() { C.block() }()
	go func() { C.call() }()
	time.Sleep(300 * time.Millisecond)
	fmt.Println("ready")
	select {}
}
