// node worklist.cjs HOST PORT MODALITY DATE
// Asks for the worklist. Prints a line for each item ("item NAME STEP_ID") and the final response
// ("status XXXX").
const { Client, requests, constants, log } = require("dcmjs-dimse");

log.disableAll?.();
const [host, port, modality, date] = process.argv.slice(2);
const client = new Client();

const request = requests.CFindRequest.createWorklistFindRequest({
  PatientName: "",
  ScheduledProcedureStepSequence: [
    {
      Modality: modality,
      ScheduledProcedureStepStartDate: date,
      ScheduledProcedureStepID: "",
    },
  ],
});
let answered = false;
request.on("response", (response) => {
  if (response.hasDataset()) {
    const elements = response.getDataset().getElements();
    const name = [].concat(elements.PatientName)[0];
    const step = [].concat(elements.ScheduledProcedureStepSequence)[0];
    console.log(`item ${name.Alphabetic ?? name} ${step.ScheduledProcedureStepID}`);
    return;
  }
  answered = true;
  console.log("status " + response.getStatus().toString(16).padStart(4, "0"));
});
client.on("networkError", (error) => {
  console.error(error);
  // After several matches dcmjs-dimse at times writes to the connection that it has closed.
  process.exit(answered ? 0 : 1);
});
client.on("associationRejected", () => process.exit(2));
client.on("closed", () => process.exit(0));
client.addRequest(request);
client.send(host, Number(port), "DCMJS", "DICOMNODE");
