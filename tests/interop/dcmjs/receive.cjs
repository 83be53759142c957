// node receive.cjs PORT [TLS]: accepts every association and object; prints "object UID DIGEST" for each,
// the SHA-256 of its pixels (all fragments). TLS are the options of the server, in JSON.
const { createHash } = require("node:crypto");
const { Server, Scp, association, constants, log, responses } = require("dcmjs-dimse");

log.disableAll?.();
const { PresentationContextResult, SopClass, Status, StorageClass } = constants;
const storage = new Set([...Object.values(StorageClass), SopClass.Verification]);

class Store extends Scp {
  associationRequested(request) {
    this.association = request;
    for (const { id } of request.getPresentationContexts()) {
      const context = request.getPresentationContext(id);
      if (storage.has(context.getAbstractSyntaxUid())) {
        context.setResult(PresentationContextResult.Accept, context.getTransferSyntaxUids()[0]);
      } else {
        context.setResult(PresentationContextResult.RejectAbstractSyntaxNotSupported);
      }
    }
    this.sendAssociationAccept();
  }

  cEchoRequest(request, callback) {
    const response = responses.CEchoResponse.fromRequest(request);
    response.setStatus(Status.Success);
    callback(response);
  }

  cStoreRequest(request, callback) {
    const digest = createHash("sha256");
    for (const part of [request.getDataset().getElement("PixelData")].flat()) {
      digest.update(Buffer.from(part));
    }
    console.log(`object ${request.getDataset().getElement("SOPInstanceUID")} ${digest.digest("hex")}`);
    const response = responses.CStoreResponse.fromRequest(request);
    response.setStatus(Status.Success);
    callback(response);
  }

  associationReleaseRequested() {
    this.sendAssociationReleaseResponse();
  }
}

const server = new Server(Store);
server.on("networkError", () => undefined);
server.listen(Number(process.argv[2]), JSON.parse(process.argv[3] ?? "{}"));
console.log("listening");
