// A server whose event loop never comes back from the handler of /block.
const http = require("node:http");

const server = http.createServer((request, response) => {
  while (request.url === "/block") {
    // For ever.
  }
  response.end("ok\n");
});
server.listen({ host: "127.0.0.1", port: 8080, backlog: 64 });
