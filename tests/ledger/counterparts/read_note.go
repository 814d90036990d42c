// Opens a signed note (standard input) with a verifier key (argument), and prints its text. The package is the first
// implementation of signed notes, golang.org/x/mod/sumdb/note, as the compiler itself carries it.
package main

import (
	"fmt"
	"io"
	"os"

	"read_note/note"
)

func main() {
	message, err := io.ReadAll(os.Stdin)
	if err != nil {
		panic(err)
	}
	verifier, err := note.NewVerifier(os.Args[1])
	if err != nil {
		fail(err)
	}
	opened, err := note.Open(message, note.VerifierList(verifier))
	if err != nil {
		fail(err)
	}
	fmt.Print(opened.Text)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
