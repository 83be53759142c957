// node query.cjs HOST PORT find|name|get|move|cancel STUDY_INSTANCE_UID [DESTINATION]
// Prints a line for each match ("match UID"; name: "name NAME", in JSON), each object ("object UID BYTES of pixel data") and
// the final response ("status XXXX COMPLETED FAILED").
const { Client, requests, responses, constants, log } = require("dcmjs-dimse");

log.disableAll?.();
const [host, port, what, study, destination] = process.argv.slice(2);
const client = new Client();
const { Status } = constants;

const request = {
  find: () => requests.CFindRequest.createStudyFindRequest({ StudyInstanceUID: study, PatientName: "" }),
  name: () => requests.CFindRequest.createStudyFindRequest({ StudyInstanceUID: study, PatientName: "" }),
  cancel: () => requests.CFindRequest.createStudyFindRequest({ StudyInstanceUID: "", PatientName: "" }),
  get: () => requests.CGetRequest.createStudyGetRequest(study),
  move: () => requests.CMoveRequest.createStudyMoveRequest(destination, study),
}[what]();

let cancelled = false;
request.on("response", (response) => {
  if (response.getStatus() !== Status.Pending) {
    const counts = what === "get" || what === "move" ? [response.getCompleted(), response.getFailures()] : [];
    console.log(["status", response.getStatus().toString(16).padStart(4, "0"), ...counts].join(" "));
    return;
  }
  if (what === "name") {
    console.log("name " + JSON.stringify(response.getDataset().getElement("PatientName")));
  } else if (response.hasDataset()) {
    console.log("match " + response.getDataset().getElement("StudyInstanceUID"));
  }
  if (what === "cancel" && !cancelled) {
    cancelled = true;
    client.cancel(request);
  }
});
client.on("cStoreRequest", (store, callback) => {
  const dataset = store.getDataset();
  console.log(`object ${dataset.getElement("SOPInstanceUID")} ${dataset.getElement("PixelData")[0].byteLength}`);
  const response = responses.CStoreResponse.fromRequest(store);
  response.setStatus(Status.Success);
  callback(response);
});
client.on("networkError", (error) => {
  console.error(error);
  process.exit(1);
});
client.on("associationRejected", () => process.exit(2));
client.on("closed", () => process.exit(0));
client.addRequest(request);
client.send(host, Number(port), "DCMJS", "DICOMNODE");
