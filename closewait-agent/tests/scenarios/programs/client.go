// A client that asks twice a second for half a minute, looks at the status only and never closes the body of a response.
package main

import (
	"log"
	"net/http"
	"time"
)

func main() {
	var responses []*http.Response
	for range [60]int{} {
		response, err := http.Get("http://127.0.0.1:8080/body")
		if err != nil {
			log.Fatal(err)
		}
		responses = append(responses, response)
		time.Sleep(500 * time.Millisecond)
	}
	log.Printf("%d responses", len(responses))
	time.Sleep(150 * time.Second)
	log.Print(responses[0].Status)
}
