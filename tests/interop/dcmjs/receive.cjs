// node receive.cjs PORT: accepts every association and object; prints "object UID" for each.
const { Server, Scp, association, constants, log, responses } = require("dcmjs-dimse");

log.disableAll?.();
const { PresentationContextResult, Status, StorageClass } = constants;
const storage = new Set(Object.values(StorageClass));

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

  cStoreRequest(request, callback) {
    console.log("object " + request.getDataset().getElement("SOPInstanceUID"));
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
server.listen(Number(process.argv[2]));
console.log("listening");
