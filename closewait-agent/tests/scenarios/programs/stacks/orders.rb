# A server with eight workers.
#
# /order takes the lock of the ledger; after /audit, a thread has it and never releases it. /report asks the backend.
# /forget answers and keeps the connection. Everything else is answered, and the connection closed.

require "socket"

LEDGER = Mutex.new
FORGOTTEN = []
JOBS = Queue.new

def reserve
  LEDGER.lock
  LEDGER.unlock
  "ok\n"
end

def report
  backend = TCPSocket.new("127.0.0.1", 8081)
  backend.write("report\n")
  answer = backend.readpartial(4096)
  backend.close
  answer
end

def audit
  LEDGER.lock
  sleep
end

def serve(connection)
  path = connection.readpartial(4096).split(" ")[1]
  answer = "ok\n"
  case path
  when "/order" then answer = reserve
  when "/report" then answer = report
  when "/audit" then Thread.new { audit }
  end
  connection.write("HTTP/1.0 200 OK\r\n\r\n" + answer)
  path == "/forget" ? FORGOTTEN << connection : connection.close
rescue SystemCallError, IOError
  connection.close
end

def work
  while true
    serve(JOBS.pop)
  end
end

8.times { Thread.new { work } }
listener = TCPServer.new("127.0.0.1", 8080)
loop do
  JOBS << listener.accept
rescue SystemCallError
  # No descriptor is left.
  sleep 0.1
end
