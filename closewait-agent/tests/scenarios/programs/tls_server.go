// An HTTPS server that says goodbye to a connection that was idle for half a second; /body sends 40 kB. Its certificate is
// of its own making.
package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"log"
	"math/big"
	"net/http"
	"time"
)

func certificate() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	raw, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		log.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}
}

func main() {
	answer := func(writer http.ResponseWriter, request *http.Request) {
		if request.URL.Path == "/body" {
			if _, err := writer.Write(bytes.Repeat([]byte("x"), 40000)); err != nil {
				log.Print(err)
			}
			return
		}
		// Long enough for all clients to be there at once.
		time.Sleep(time.Second)
		if _, err := writer.Write([]byte("ok\n")); err != nil {
			log.Print(err)
		}
	}
	server := http.Server{
		Addr:        "127.0.0.1:8443",
		Handler:     http.HandlerFunc(answer),
		IdleTimeout: 500 * time.Millisecond,
		TLSConfig:   &tls.Config{Certificates: []tls.Certificate{certificate()}},
	}
	log.Fatal(server.ListenAndServeTLS("", ""))
}
