"""Names that are not ASCII: this file's in UCS-2, functions in Latin-1 and UCS-4."""
import threading


def größe():
    𐎠𐎡()


def 𐎠𐎡():
    threading.Event().wait()
