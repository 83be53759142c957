// node send.cjs HOST PORT [FILE...]: C-ECHO, then C-STORE each file; prints a line "status XXXX" for each.
const { Client, requests, constants, log } = require("dcmjs-dimse");

log.disableAll?.();
const [host, port, ...files] = process.argv.slice(2);
const client = new Client();

function add(request) {
  request.on("response", (response) => {
    if (response.getStatus() !== constants.Status.Pending) {
      console.log("status " + response.getStatus().toString(16).padStart(4, "0"));
    }
  });
  client.addRequest(request);
}

add(new requests.CEchoRequest());
files.forEach((file) => add(new requests.CStoreRequest(file)));
client.on("networkError", (error) => {
  console.error(error);
  process.exit(1);
});
client.on("associationRejected", () => process.exit(2));
client.on("closed", () => process.exit(0));
// DCMJS_TITLE is whom it calls as, DCMJS_OPTIONS the options of the association (TLS, user identity).
const title = process.env.DCMJS_TITLE ?? "DCMJS";
client.send(host, Number(port), title, "DICOMNODE", JSON.parse(process.env.DCMJS_OPTIONS ?? "{}"));
