// node archive.cjs PORT FILE...: finds its objects by study, series and image, and hands them out by
// C-GET.
const { Server, Scp, Dataset, constants, log, requests, responses } = require("dcmjs-dimse");

log.disableAll?.();
const { PresentationContextResult, Status } = constants;
const held = process.argv.slice(3).map((path) => ({ path, dataset: Dataset.fromFile(path) }));
const UNIQUE = { STUDY: "StudyInstanceUID", SERIES: "SeriesInstanceUID", IMAGE: "SOPInstanceUID" };

function matching(query) {
  const uids = Object.values(UNIQUE).filter((name) => query.getElement(name));
  return held.filter(({ dataset }) =>
    uids.every((name) => {
      const wanted = [query.getElement(name)].flat().join("\\").split("\\");
      return wanted.includes(dataset.getElement(name));
    }),
  );
}

class Archive extends Scp {
  associationRequested(association) {
    for (const { id } of association.getPresentationContexts()) {
      const context = association.getPresentationContext(id);
      context.setResult(PresentationContextResult.Accept, context.getTransferSyntaxUids()[0]);
    }
    this.sendAssociationAccept();
  }

  cEchoRequest(request, callback) {
    const response = responses.CEchoResponse.fromRequest(request);
    response.setStatus(Status.Success);
    callback(response);
  }

  cFindRequest(request, callback) {
    const query = request.getDataset();
    const level = query.getElement("QueryRetrieveLevel");
    const found = new Map(matching(query).map((one) => [one.dataset.getElement(UNIQUE[level]), one]));
    const answers = [...found.values()].map(({ dataset }) => {
      const answer = responses.CFindResponse.fromRequest(request);
      const names = Object.keys(query.getElements()).filter((name) => name[0] !== "_");
      const elements = names.map((name) => [name, dataset.getElement(name) ?? ""]);
      answer.setDataset(new Dataset({ ...Object.fromEntries(elements), QueryRetrieveLevel: level }));
      answer.setStatus(Status.Pending);
      return answer;
    });
    const last = responses.CFindResponse.fromRequest(request);
    last.setStatus(Status.Success);
    callback([...answers, last]);
  }

  cGetRequest(request, callback) {
    const found = matching(request.getDataset());
    let stored = 0;
    const stores = found.map(({ path }) => {
      const store = new requests.CStoreRequest(path);
      store.on("response", () => {
        stored += 1;
        if (stored === found.length) {
          const last = responses.CGetResponse.fromRequest(request);
          last.setStatus(Status.Success);
          last.setRemaining(0);
          last.setCompleted(stored);
          last.setFailures(0);
          last.setWarnings(0);
          callback([last]);
        }
      });
      return store;
    });
    this.sendRequests(stores);
  }

  associationReleaseRequested() {
    this.sendAssociationReleaseResponse();
  }
}

const server = new Server(Archive);
server.on("networkError", () => undefined);
server.listen(Number(process.argv[2]));
console.log("listening");
// The library tells of every private attribute; nobody reads that.
console.log = () => undefined;
